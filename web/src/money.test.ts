import { describe, expect, test } from 'vitest';
import { parseRubles, toDecimal, toInput, type Lang } from './money';

describe('parseRubles', () => {
  test.each<[string, Lang, number]>([
    ['1', 'en', 100],
    ['0.01', 'en', 1],
    ['0,1', 'ru', 10],
    ['99,90', 'ru', 9990],
    ['99.9', 'ru', 9990],
    ['1 000', 'ru', 100_000],
    ['1\u00a0000,50 ₽', 'ru', 100_050],
    ['1\u202f000', 'ru', 100_000],
    ['1,000', 'en', 100_000],
    ['1,234,567.89', 'en', 123_456_789],
    ['1,50', 'en', 150],
    ['007', 'en', 700],
    ['1.', 'en', 100],
    // Sums that lose a kopeck where they pass through a float.
    ['8.20', 'en', 820],
    ['1.15', 'en', 115],
    ['4.35', 'ru', 435],
    ['10000000000', 'ru', 10 ** 12],
  ])('%s in %s', (text, lang, amount) => {
    expect(parseRubles(text, lang)).toEqual({ amount });
  });

  test.each<[string, string]>([
    ['', 'empty'],
    ['   ', 'empty'],
    ['abc', 'unreadable'],
    ['-5', 'unreadable'],
    ['1e3', 'unreadable'],
    ['0x10', 'unreadable'],
    ['1.2.3', 'unreadable'],
    ['.50', 'unreadable'],
    ['٥', 'unreadable'],
    ['1,000', 'fraction'],
    ['1.234', 'fraction'],
    ['0', 'zero'],
    ['0,00', 'zero'],
    ['10000000000,01', 'large'],
    ['99999999999999999999999999', 'large'],
  ])('%s is refused as %s', (text, error) => {
    expect(parseRubles(text, 'ru')).toEqual({ error });
  });

  test('reads back every amount that it writes', () => {
    for (const lang of ['en', 'ru'] as const) {
      for (const amount of [1, 9, 10, 99, 100, 101, 12_345, 100_000, 999_999_999_999, 10 ** 12]) {
        expect(parseRubles(toInput(amount, lang), lang)).toEqual({ amount });
      }
    }
  });
});

test.each([
  [0, '0.00'],
  [1, '0.01'],
  [-5, '-0.05'],
  [12_345, '123.45'],
  [Number.MAX_SAFE_INTEGER, '90071992547409.91'],
])('%i kopecks are exactly %s', (minor, text) => {
  expect(toDecimal(minor)).toBe(text);
});
