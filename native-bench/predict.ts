/**
 * What a process server reaches on another machine, from its kernels (README.md, "On other machines"). A bound, not a promise: caches, memory and the
 * clock of a processor with all its cores at work are not in it.
 */
export interface Machine {
  /** All of them for the process server. */
  readonly cores: number;
  /** Of the network, each direction, 10⁹ bits per second. */
  readonly linkGbps: number;
  /** Kernel sum ÷ what the process server really uses, as measured with the whole product. */
  readonly efficiency: number;
}

export interface Prediction {
  /** 10⁶ bytes of content per second. */
  readonly mbps: number;
  /** What holds it there: all cores; the one thread that has every connection; the network towards it, or from it to the targets. */
  readonly boundBy: 'cores' | 'connection thread' | 'link in' | 'link out';
}

/** What is taken from a kernel sum: CPU seconds per GB of content, and bytes. */
export interface Known {
  readonly sumSecondsPerGB: number;
  readonly tlsReceive: number;
  readonly tlsSend: number;
  readonly input: {
    readonly sampledBytes: number;
    readonly plainFrameBytes: number;
    readonly sealedFrameBytes: number;
  };
}

export function predict({ sumSecondsPerGB, tlsReceive, tlsSend, input }: Known, machine: Machine): Prediction {
  const linkGBps = machine.linkGbps / 8;
  const gigabytesPerSecond = {
    cores: (machine.cores * machine.efficiency) / sumSecondsPerGB,
    'connection thread': machine.efficiency / (tlsReceive + tlsSend),
    'link in': (linkGBps * input.sampledBytes) / input.plainFrameBytes,
    'link out': (linkGBps * input.sampledBytes) / input.sealedFrameBytes,
  };
  let boundBy: Prediction['boundBy'] = 'cores';
  for (const name of ['connection thread', 'link in', 'link out'] as const)
    if (gigabytesPerSecond[name] < gigabytesPerSecond[boundBy]) boundBy = name;
  return { mbps: Math.round(gigabytesPerSecond[boundBy] * 1000), boundBy };
}
