/** Money is an integer in minor units (kopecks), as in the API. */
export const LARGEST_OPERATION = 10 ** 12;

export type Lang = 'en' | 'ru';

export type AmountError = 'empty' | 'unreadable' | 'fraction' | 'zero' | 'large';
export type Parsed = { amount: number } | { error: AmountError };

/**
 * Reads rubles as people type them, into kopecks, without ever passing through
 * a fraction: spaces group digits, a comma or a point parts the kopecks, and
 * in English commas may group thousands.
 */
export function parseRubles(text: string, lang: Lang): Parsed {
  let plain = text.replace(/[\s\u00a0\u202f₽]/g, '');
  if (plain === '') return { error: 'empty' };
  if (lang === 'en' && /^\d{1,3}(,\d{3})+(\.\d*)?$/.test(plain)) plain = plain.replaceAll(',', '');
  const match = /^(\d+)(?:[.,](\d*))?$/.exec(plain);
  if (!match) return { error: 'unreadable' };
  const [, rubles = '', kopecks = ''] = match;
  if (kopecks.length > 2) return { error: 'fraction' };
  const digits = (rubles + kopecks.padEnd(2, '0')).replace(/^0+/, '');
  if (digits === '') return { error: 'zero' };
  if (digits.length > 13 || Number(digits) > LARGEST_OPERATION) return { error: 'large' };
  return { amount: Number(digits) };
}

/** Kopecks as an exact decimal of rubles, the form that `Intl` takes as it is. */
export function toDecimal(minor: number): `${number}` {
  const digits = String(Math.abs(minor)).padStart(3, '0');
  return `${minor < 0 ? '-' : ''}${digits.slice(0, -2)}.${digits.slice(-2)}` as `${number}`;
}

/** The text to start an amount field with: no currency, kopecks only if any. */
export function toInput(minor: number, lang: Lang): string {
  const decimal = toDecimal(minor).replace(/\.00$/, '');
  return lang === 'ru' ? decimal.replace('.', ',') : decimal;
}
