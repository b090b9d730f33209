import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Notices } from './notices.svelte';
import { order, paid } from './test/orders';

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

const kinds = (notices: Notices) => notices.list.map(({ news }) => news.kind);

test('a burst of outcomes is counted instead of listed', () => {
  const notices = new Notices();
  for (let n = 1; n <= 6; n++) notices.add({ kind: 'outcome', order: paid(n) });
  notices.add({ kind: 'outcome', order: order(7, { status: 'CANCELLED', version: 2 }) });
  expect(kinds(notices)).toEqual(['outcome', 'outcome', 'outcomes']);
  expect(notices.list.at(-1)?.news).toEqual({ kind: 'outcomes', paid: 4, cancelled: 1 });
});

test('a notice goes by itself, unless it is being read', () => {
  const notices = new Notices();
  notices.add({ kind: 'deposit', amount: 1 });
  const [notice] = notices.list;
  if (notice) notices.keep(notice.id);
  vi.advanceTimersByTime(60_000);
  expect(kinds(notices)).toEqual(['deposit']);
  if (notice) notices.release(notice.id);
  vi.advanceTimersByTime(60_000);
  expect(kinds(notices)).toEqual([]);
});
