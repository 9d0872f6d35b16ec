/**
 * Record bodies checked by tables of fields. A log of fifteen days holds some 86,000 records, nearly all of two kinds; these are checked this way,
 * several times faster than by their schemas (`points-record.ts`), which stay the truth:
 *
 *  1. What is plain, the schema takes, and as it is: no field unknown to it, none missing, every value within its bounds.
 *  2. That something is not plain says nothing: the schema decides then.
 *  3. A table names every field of the type, so one that is added to a schema can not be forgotten here.
 */
export type Check = (value: unknown) => boolean;

interface Field {
  readonly check: Check;
  readonly optional: boolean;
}

/** A table of a type's fields. */
type Fields<Body> = { readonly [Name in keyof Body]-?: undefined extends Body[Name] ? Field : Check };

const hex32 = /^[0-9a-f]{64}$/;

/** 32 bytes in lower case. */
export const isHex32: Check = (value) => typeof value === 'string' && hex32.test(value);

/** Milliseconds, with fractions. */
export const isTime: Check = (value) => typeof value === 'number' && Number.isFinite(value) && value >= 0;

export const isInteger =
  (min: number, max = Number.MAX_SAFE_INTEGER): Check =>
  (value) =>
    typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max;

export const isText =
  (charsMax: number): Check =>
  (value) =>
    typeof value === 'string' && value.length <= charsMax;

export const isOneOf =
  (...names: readonly string[]): Check =>
  (value) =>
    typeof value === 'string' && names.includes(value);

export const isList =
  (check: Check, min = 0, max = Infinity): Check =>
  (value) =>
    Array.isArray(value) && value.length >= min && value.length <= max && value.every(check);

export const optional = (check: Check): Field => ({ check, optional: true });

/** Whether a value that JSON gave has these fields and no others. */
export function isPlain<Body>(fields: Fields<Body>): (value: unknown) => value is Body {
  const known = new Map(
    Object.entries<Check | Field>(fields).map(([name, field]): [string, Field] => [
      name,
      typeof field === 'function' ? { check: field, optional: false } : field,
    ]),
  );
  const required = [...known.values()].filter((field) => !field.optional).length;
  return (value): value is Body => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
    let found = 0;
    const named = value as Readonly<Record<string, unknown>>;
    // Not by `Object.entries`, whose arrays would cost more than the checks. What JSON gave has nothing inherited to be enumerated.
    for (const name in named) {
      const field = known.get(name);
      if (field?.check(named[name]) !== true) return false;
      if (!field.optional) found += 1;
    }
    return found === required;
  };
}
