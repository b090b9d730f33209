import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Notices } from './notices.svelte';
import { order, paid } from './test/orders';

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

const kinds = (notices: Notices) => notices.list.map(({ news }) => news.kind);

test('orders that end together are one notice', () => {
  const notices = new Notices();
  notices.add({ kind: 'outcome', order: paid(1) });
  expect(kinds(notices)).toEqual(['outcome']);
  for (let n = 2; n <= 6; n++) notices.add({ kind: 'outcome', order: paid(n) });
  notices.add({ kind: 'outcome', order: order(7, { status: 'CANCELLED', version: 2 }) });
  expect(notices.list.map(({ news }) => news)).toEqual([{ kind: 'outcomes', paid: 6, cancelled: 1 }]);
});

test('an order that ends later has a notice of its own', () => {
  const notices = new Notices();
  notices.add({ kind: 'outcome', order: paid(1) });
  vi.advanceTimersByTime(60_000);
  notices.add({ kind: 'outcome', order: paid(2) });
  expect(notices.list.map(({ news }) => news)).toEqual([{ kind: 'outcome', order: paid(2) }]);
});

test('notices of one kind are added up, and others stand beside them', () => {
  const notices = new Notices();
  notices.add({ kind: 'deposit', amount: 100 });
  notices.add({ kind: 'outcome', order: paid(1) });
  notices.add({ kind: 'refused', action: 'order', code: 'one' });
  notices.add({ kind: 'refused', action: 'deposit', code: 'two' });
  notices.add({ kind: 'deposit', amount: 20 });
  notices.add({ kind: 'refused', action: 'order', code: 'three' });
  expect(notices.list.map(({ news }) => news)).toEqual([
    { kind: 'deposit', amount: 120 },
    { kind: 'outcome', order: paid(1) },
    { kind: 'refused', action: 'order', code: 'three' },
    { kind: 'refused', action: 'deposit', code: 'two' },
  ]);
});

test('a notice goes by itself, unless it is being read', () => {
  const notices = new Notices();
  notices.add({ kind: 'deposit', amount: 1 });
  const [notice] = notices.list;
  if (notice) notices.keep(notice.id);
  vi.advanceTimersByTime(60_000);
  notices.add({ kind: 'deposit', amount: 1 });
  vi.advanceTimersByTime(60_000);
  expect(kinds(notices)).toEqual(['deposit']);
  if (notice) notices.release(notice.id);
  vi.advanceTimersByTime(60_000);
  expect(kinds(notices)).toEqual([]);
});
