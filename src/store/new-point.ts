/** A point as the source wants it, and why one of its disks can not be committed so (`machine-store.ts`, invariant 1). */
import { describeLayers, sameLayers, type LayerRun } from '../kernels/layer-run.ts';
import type { MachineDefinition } from '../wire/definition.ts';
import type { Consistency } from '../wire/point.ts';
import type { Rejected } from '../wire/rejected.ts';
import type { DiskStore } from './disk-store.ts';

export interface NewPoint {
  readonly cutTimeMs: number;
  readonly consistency: Consistency;
  readonly evidence?: string | undefined;
  /** What the machine is from this point on; left out: what it was. */
  readonly definition?: MachineDefinition | undefined;
  readonly epoch: number;
  readonly disks: readonly {
    readonly store: DiskStore;
    readonly size: number;
    /** Hex. */
    readonly root: string;
    /** All that the source sent and no point lists yet. */
    readonly layers: LayerRun | null;
    readonly kind: 'initial' | 'delta' | 'resync';
    readonly records: number;
    readonly payloadBytes: number;
    readonly writes?: number | undefined;
  }[];
}

export type CommitOutcome =
  | { readonly kind: 'committed'; readonly point: number }
  | {
      readonly kind: 'rejected';
      readonly reason: Rejected['reason'];
      readonly disk: DiskStore;
      readonly detail: string;
      readonly retryable: boolean;
    };

export function objectionTo(
  disk: NewPoint['disks'][number],
): Pick<CommitOutcome & { kind: 'rejected' }, 'reason' | 'detail' | 'retryable'> | null {
  const { store, size, root, layers } = disk;
  if (!sameLayers(layers, store.pending)) {
    const fewer = (layers?.count ?? 0) < (store.pending?.count ?? 0);
    const detail = `the source lists ${describeLayers(layers)}, durable here are ${describeLayers(store.pending)}`;
    return { reason: fewer ? 'layer-incomplete' : 'layer-unknown', detail, retryable: true };
  }
  if (size !== store.geometry.size) {
    return {
      reason: 'shrunk',
      detail: `size ${size}, the session opened it with ${store.geometry.size}`,
      retryable: false,
    };
  }
  const mine = Buffer.from(store.leaves.workingRoot()).toString('hex');
  if (mine !== root)
    return { reason: 'root-mismatch', detail: `the source's root is ${root}, the target's ${mine}`, retryable: true };
  return null;
}
