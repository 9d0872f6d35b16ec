/** Figures as people say them. */

/** `75 s`, `14 min`, `3 h`, `12 d`: the unit that leaves at least two of it. */
export function durationText(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}

const bitUnits = [
  [1e9, 'Gb/s'],
  [1e6, 'Mb/s'],
  [1e3, 'kb/s'],
] as const;

/** Of a network: bits per second, two digits. */
export function bitRateText(bytesPerSecond: number): string {
  const bits = 8 * bytesPerSecond;
  const [unit, name] = bitUnits.find(([size]) => bits >= size) ?? [1, 'b/s'];
  return `${Number((bits / unit).toPrecision(bits / unit >= 100 ? 3 : 2))} ${name}`;
}
