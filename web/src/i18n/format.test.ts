import { describe, expect, test } from 'vitest';
import { en } from './en';
import { Format, type Counted } from './format';
import { preferred } from './i18n.svelte';
import { ru } from './ru';

const english = new Format('en', 'UTC');
const russian = new Format('ru', 'UTC');
/** Intl separates with several kinds of no-break spaces; one is enough here. */
const plain = (text: string) => text.replace(/[\u00a0\u202f]/g, ' ');

describe('money', () => {
  test('follows the language', () => {
    expect(plain(russian.money(123_456_789))).toBe('1 234 567,89 ₽');
    expect(plain(english.money(123_456_789))).toBe('₽1,234,567.89');
  });

  test('keeps the last kopeck of the largest balance', () => {
    expect(plain(russian.money(Number.MAX_SAFE_INTEGER))).toBe('90 071 992 547 409,91 ₽');
  });

  test('leaves whole rubles whole where short, and only those', () => {
    expect(plain(russian.shortMoney(50_000))).toBe('500 ₽');
    expect(plain(russian.shortMoney(50_001))).toBe('500,01 ₽');
  });

  test('signs a change', () => {
    expect(plain(russian.change(-65_000))).toBe('−650,00 ₽');
    expect(plain(english.change(65_000))).toBe('+₽650.00');
  });
});

describe('plurals', () => {
  test.each([
    [0, '0 заказов оплачено'],
    [1, '1 заказ оплачен'],
    [2, '2 заказа оплачено'],
    [4, '4 заказа оплачено'],
    [5, '5 заказов оплачено'],
    [11, '11 заказов оплачено'],
    [12, '12 заказов оплачено'],
    [21, '21 заказ оплачен'],
    [22, '22 заказа оплачено'],
    [111, '111 заказов оплачено'],
    [1001, '1 001 заказ оплачен'],
  ])('%i in Russian', (number, text) => {
    expect(plain(russian.count(number, ru.outcome.paid))).toBe(text);
  });

  test.each([
    [1, '1 order paid'],
    [2, '2 orders paid'],
    [0, '0 orders paid'],
  ])('%i in English', (number, text) => {
    expect(english.count(number, en.outcome.paid)).toBe(text);
  });

  test('every counted thing has all forms of its language', () => {
    const counted = (messages: typeof en): Counted[] => [
      messages.orders.shown,
      messages.account.shown,
      messages.outcome.paid,
      messages.outcome.cancelled,
    ];
    for (const forms of counted(en)) expect(Object.keys(forms).sort()).toEqual(['one', 'other']);
    for (const forms of counted(ru)) expect(Object.keys(forms).sort()).toEqual(['few', 'many', 'one', 'other']);
  });
});

test('durations choose their unit', () => {
  expect(plain(english.duration(42))).toBe('42 milliseconds');
  expect(plain(russian.duration(1_500))).toBe('1,5 секунды');
  expect(plain(russian.duration(120_000))).toBe('2 минуты');
});

test('a moment tells the day unless it is today', () => {
  const now = new Date('2026-03-05T20:00:00Z');
  expect(english.moment('2026-03-05T09:08:07Z', now)).toBe('09:08:07');
  expect(english.moment('2026-03-04T09:08:07Z', now)).toBe('4 Mar 2026, 09:08:07');
});

test('the first spoken language of the visitor is chosen', () => {
  expect(preferred(['de-DE', 'ru-RU', 'en'])).toBe('ru');
  expect(preferred(['en-US', 'ru'])).toBe('en');
  expect(preferred(['ja'])).toBe('en');
  expect(preferred([])).toBe('en');
});

test('both languages say the same things', () => {
  const shape = (value: unknown): unknown =>
    value && typeof value === 'object' && !('other' in value && 'one' in value)
      ? Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, shape(inner)]))
      : typeof value;
  expect(shape(ru)).toEqual(shape(en));
});
