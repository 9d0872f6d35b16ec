/**
 * The firmware of a UEFI machine: EDK II as distributions package it, and for each machine a fresh copy of its variables. What the source's
 * firmware kept is not on its disks and so not replicated: the machine starts by the default path, `\EFI\BOOT\BOOTX64.EFI`.
 */
import * as path from 'node:path';
import { Problem } from '../kit/problem.ts';
import type { Files } from '../posix/files.ts';
import type { UefiFiles } from './qemu.ts';

/** Code and empty variables, as Debian, Fedora, Arch and SUSE name them. */
const packaged = [
  ['/usr/share/OVMF/OVMF_CODE_4M.fd', '/usr/share/OVMF/OVMF_VARS_4M.fd'],
  ['/usr/share/OVMF/OVMF_CODE.fd', '/usr/share/OVMF/OVMF_VARS.fd'],
  ['/usr/share/edk2/ovmf/OVMF_CODE.fd', '/usr/share/edk2/ovmf/OVMF_VARS.fd'],
  ['/usr/share/edk2/x64/OVMF_CODE.4m.fd', '/usr/share/edk2/x64/OVMF_VARS.4m.fd'],
  ['/usr/share/qemu/ovmf-x86_64-code.bin', '/usr/share/qemu/ovmf-x86_64-vars.bin'],
] as const;

/** @throws Problem `not-found`: none is installed. */
export async function findUefi(files: Files): Promise<{ readonly code: string; readonly empty: string }> {
  for (const [code, empty] of packaged)
    if ((await files.exists(code)) && (await files.exists(empty))) return { code, empty };
  throw new Problem('not-found', 'the machine starts by UEFI, and no UEFI firmware for QEMU is installed here', {
    remedy: 'install it (Debian: ovmf)',
  });
}

const variablesOf = (directory: string): string => path.join(directory, 'uefi-variables.fd');

/** What was prepared in `directory`; null: nothing, or no firmware is installed any more. */
export async function preparedUefi(files: Files, directory: string): Promise<UefiFiles | null> {
  const variables = variablesOf(directory);
  if (!(await files.exists(variables))) return null;
  const found = await findUefi(files).catch(() => null);
  return found && { code: found.code, variables };
}

/** Copies the variables into `directory` unless they are there. @throws Problem `not-found`: no firmware is installed. */
export async function prepareUefi(files: Files, directory: string): Promise<UefiFiles> {
  const { code, empty } = await findUefi(files);
  const variables = variablesOf(directory);
  if (!(await files.exists(variables))) await files.replaceFile(variables, await files.readWhole(empty));
  return { code, variables };
}
