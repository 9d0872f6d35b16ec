/**
 * The three functions of the old decorator-metadata proposal that the certificate library's dependency injection calls when it
 * is loaded, and no more. A package of 60 KB would do the same; this is to be imported before `@peculiar/x509`, by nobody else.
 * Left alone where a real implementation was loaded first.
 */
type Metadata = Map<unknown, unknown>;

const ofClass = new WeakMap<object, Metadata>();

function own(key: unknown, target: object): unknown {
  return ofClass.get(target)?.get(key);
}

function inherited(key: unknown, target: object): unknown {
  for (let at: object | null = target; at !== null; at = Reflect.getPrototypeOf(at)) {
    const metadata = ofClass.get(at);
    if (metadata?.has(key)) return metadata.get(key);
  }
  return undefined;
}

function define(key: unknown, value: unknown, target: object): void {
  const metadata = ofClass.get(target) ?? new Map<unknown, unknown>();
  ofClass.set(target, metadata.set(key, value));
}

if (!('getMetadata' in Reflect)) {
  Object.assign(Reflect, { getMetadata: inherited, getOwnMetadata: own, defineMetadata: define });
}
