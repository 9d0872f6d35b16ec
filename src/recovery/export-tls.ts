/**
 * Where the certificates of an export lie, by the names QEMU's `tls-creds-x509` and libnbd look for in a directory. What clients need lies in a
 * directory of its own, without the server's key: it may be copied as it is to wherever the machine is to be started. Keys have mode 0600.
 */
import * as path from 'node:path';
import type { NbdTls } from '../nbd/tls.ts';
import type { Files } from '../posix/files.ts';
import type { ExportCertificates } from '../transport/export-certificates.ts';

const authority = 'ca-cert.pem';

export async function writeClientCertificates(
  files: Files,
  directory: string,
  { caPem, client }: ExportCertificates,
): Promise<void> {
  await writeSide(files, directory, 'client', { caPem, ...client });
}

/** `directory` has `client/`, for those who connect, and `server/`, for `readExportTls`. Durable when it resolves. */
export async function writeExportTls(files: Files, directory: string, made: ExportCertificates): Promise<void> {
  await writeClientCertificates(files, clientDirectory(directory), made);
  await writeSide(files, serverDirectory(directory), 'server', { caPem: made.caPem, ...made.server });
}

/** @throws ENOENT: there is none, or not all of it. */
export async function readExportTls(files: Files, directory: string): Promise<NbdTls> {
  const read = async (name: string): Promise<string> =>
    (await files.readWhole(path.join(serverDirectory(directory), name))).toString();
  return {
    caPem: await read(authority),
    certPem: await read('server-cert.pem'),
    keyPem: await read('server-key.pem'),
    clientDirectory: clientDirectory(directory),
  };
}

/** What clients show and believe; part of what is printed, so absolute. */
export function clientDirectory(directory: string): string {
  return path.resolve(directory, 'client');
}

function serverDirectory(directory: string): string {
  return path.join(directory, 'server');
}

async function writeSide(
  files: Files,
  directory: string,
  side: 'client' | 'server',
  { caPem, certPem, keyPem }: { readonly caPem: string; readonly certPem: string; readonly keyPem: string },
): Promise<void> {
  await files.makeDirectory(directory);
  await files.replaceFile(path.join(directory, authority), Buffer.from(caPem));
  await files.replaceFile(path.join(directory, `${side}-cert.pem`), Buffer.from(certPem));
  await files.replaceFile(path.join(directory, `${side}-key.pem`), Buffer.from(keyPem));
}
