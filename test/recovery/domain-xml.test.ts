/** Definitions as libvirt domains: what is written is read back, what others write is taken, or refused by the name of its element. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GiB } from '../../src/kit/sizes.ts';
import { domainXml } from '../../src/recovery/domain-xml.ts';
import { readDomainXml } from '../../src/recovery/domain-xml-read.ts';
import type { MachineDefinition } from '../../src/wire/definition.ts';
import { anyDefinition, plain } from './definitions.ts';

const served = (definition: MachineDefinition) =>
  definition.disks.map((name) => ({
    name,
    uri: `nbd+unix:///${name}?socket=${encodeURIComponent(`/a&"<b>'/${name}`)}`,
  }));

describe('a domain written', () => {
  it('is read back as it was', () => {
    fc.assert(
      fc.property(anyDefinition, fc.boolean(), (definition, accelerated) => {
        const disks = served(definition).reverse();
        const text = domainXml({ name: 'web', definition, disks, network: 'connected', accelerated });
        expect(readDomainXml(text, definition.disks)).toEqual(definition);
      }),
    );
  });

  it('holds the addresses of its disks, whatever is in them', () => {
    const text = domainXml({
      name: 'web',
      definition: plain,
      disks: served(plain),
      network: 'isolated',
      accelerated: false,
    });
    expect(text).toContain('<source protocol="nbd" name="root">');
    expect(text).toContain('<reconnect delay="60"/>');
    expect(text).toContain('<host transport="unix" socket="/a&amp;&quot;&lt;b&gt;\'/root"/>');
  });

  it('says which disks are behind TLS', () => {
    const disks = [{ name: 'root', uri: 'nbds://host:1/root?tls-certificates=/d' }];
    const text = domainXml({ name: 'web', definition: plain, disks, network: 'isolated', accelerated: false });
    expect(text).toContain('<source protocol="nbd" name="root" tls="yes">');
    expect(text).toContain('<host transport="tcp" name="host" port="1"/>');
  });

  it('is on no network of the host unless asked', () => {
    const definition: MachineDefinition = { ...plain, nics: [{ model: 'virtio', network: 'lan' }] };
    const text = domainXml({ name: 'web', definition, disks: served(plain), network: 'isolated', accelerated: true });
    expect(text).not.toContain('lan');
    expect(text).toContain('<link state="down"/>');
  });
});

/** As `virsh dumpxml` prints it, shortened. */
const theirs = `<?xml version='1.0'?>
<domain type='kvm' id='7'>
  <name>web</name>
  <metadata><app:x xmlns:app="http://example.org/">a &amp; b</app:x></metadata>
  <memory unit='KiB'>4194305</memory>
  <vcpu placement='static' current='2'>8</vcpu>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-8.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
    <boot dev='hd'/>
  </os>
  <devices>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
    <disk type='file' device='disk'>
      <source file='/var/lib/libvirt/images/data.qcow2'/><target dev='vda' bus='virtio'/><boot order='2'/>
    </disk>
    <disk type='block' device='disk'><target dev='vdb'/><serial>root</serial><boot order='1'/></disk>
    <interface type='bridge'>
      <mac address='52:54:00:AB:CD:EF'/><source bridge='br0'/><model type='virtio-non-transitional'/>
    </interface>
    <interface type='user'/>
    <graphics type='spice'/>
  </devices>
</domain>`;

describe('a domain of somebody else', () => {
  it('is taken for what matters to a start', () => {
    expect(readDomainXml(theirs, ['root', 'vda'])).toEqual({
      cpus: 2,
      memoryBytes: 4 * GiB + 2 ** 20,
      firmware: 'uefi',
      type: 'q35',
      bus: 'virtio',
      disks: ['root', 'vda'],
      nics: [{ model: 'virtio', mac: '52:54:00:ab:cd:ef', network: 'br0' }, { model: 'e1000e' }],
    });
  });

  it('has its disks in the order they are protected in, when it knows none of their names', () => {
    const unknown = theirs.replace('<serial>root</serial>', '');
    expect(readDomainXml(unknown, ['first', 'second']).disks).toEqual(['second', 'first']);
    expect(() => readDomainXml(unknown, ['one'])).toThrow('which of its 2 disks is one can not be told');
  });

  it.each([
    ['<domain>: type xen', "'kvm'", "'xen'"],
    ['<domain>: has no <vcpu>', /<vcpu.*/, ''],
    ['<domain>: has more than one <vcpu>', '<os ', '<vcpu>1</vcpu><os '],
    ['<vcpu>: "two" is not', "current='2'", "current='two'"],
    ['<memory>: unit "constructor"', "unit='KiB'", "unit='constructor'"],
    ['<domain>: memoryBytes', '4194305', '1'],
    ['<os/type>: arch aarch64', 'x86_64', 'aarch64'],
    ['<os/type>: machine microvm', 'pc-q35-8.2', 'microvm'],
    ['<os>: firmware coreboot', "'efi'", "'coreboot'"],
    ['<os/kernel>', '<boot dev', '<kernel>/vmlinuz</kernel><boot dev'],
    ['<devices/hostdev>', '<graphics', '<hostdev/><graphics'],
    ['<devices/tpm>', '<graphics', '<tpm/><graphics'],
    ['<devices/disk>: device lun', "'disk'", "'lun'"],
    ['<disk/target>: bus usb', "bus='virtio'", "bus='usb'"],
    ['<disk/target>: bus virtio beside scsi', "dev='vdb'", "dev='vdb' bus='scsi'"],
    ['<interface/model>: ne2k_pci', 'virtio-non-transitional', 'ne2k_pci'],
    ['nics.0.mac: a unicast address', '52:54:00:AB', '01:54:00:AB'],
    ['<!DOCTYPE>', '<domain', '<!DOCTYPE domain [<!ENTITY a "b">]><domain'],
    ['<network>: the outermost', theirs, '<network/>'],
    ['<domain>: ', '</vcpu>', '</cpu>'],
    ['<domain>: ', /<\/domain>/, ''],
    ['<domain>: ', theirs, 'not XML at all'],
  ])('is refused with %s', (complaint, from, to) => {
    expect(() =>
      readDomainXml(
        theirs.replace(from, () => to),
        ['root', 'vda'],
      ),
    ).toThrow(complaint);
  });
});
