import { describe, expect, test } from 'vitest';
import { order, paid } from '../test/orders';
import { listed, newestFirst, OrderBook } from './book.svelte';

function book(awaited: string[] = []) {
  const told: string[] = [];
  const kept = { ids: awaited };
  const made = new OrderBook(awaited, {
    outcome: ({ id, status }) => told.push(`${status} ${Number(id.slice(-4))}`),
    awaits: (ids) => (kept.ids = ids),
  });
  return { made, told, kept };
}

describe('versions', () => {
  test('a late frame never puts an order back', () => {
    const { made } = book();
    made.take(paid(1), 'change');
    made.take(order(1), 'change');
    made.take(order(1), 'snapshot');
    expect(made.get(order(1).id)?.status).toBe('FINISHED');
  });

  test('whatever the order and number of frames, the highest version stays', () => {
    const frames = [order(1), order(1, { version: 3, status: 'FINISHED' }), order(1, { version: 2 }), order(1)];
    for (let shift = 0; shift < frames.length; shift++) {
      const { made, told } = book();
      for (const frame of [...frames.slice(shift), ...frames.slice(0, shift), ...frames]) made.take(frame, 'change');
      expect(made.get(order(1).id)?.version).toBe(3);
      expect(told).toEqual(['FINISHED 1']);
    }
  });
});

describe('an outcome is told', () => {
  test('once, when it is pushed', () => {
    const { made, told } = book();
    made.take(order(1), 'placed');
    made.take(paid(1), 'change');
    made.take(paid(1), 'change');
    made.take(paid(1), 'snapshot');
    expect(told).toEqual(['FINISHED 1']);
  });

  test('once, when it overtakes the answer to the order', () => {
    const { made, told } = book();
    made.take(paid(1), 'change');
    made.take(order(1), 'placed');
    expect(told).toEqual(['FINISHED 1']);
  });

  test('after a reconnect, for orders known before and for orders never seen', () => {
    const { made, told } = book();
    made.take(order(1), 'first-snapshot');
    made.take(paid(1), 'snapshot');
    made.take(paid(2), 'snapshot');
    expect(told).toEqual(['FINISHED 1', 'FINISHED 2']);
  });

  test('after a reload, for orders that were awaited before it', () => {
    const { made, told, kept } = book([order(1).id]);
    made.take(paid(1), 'first-snapshot');
    expect(told).toEqual(['FINISHED 1']);
    expect(kept.ids).toEqual([]);
  });

  test('when the answer to a resent order comes after its outcome', () => {
    const { made, told } = book();
    made.take(paid(1), 'first-snapshot');
    expect(told).toEqual([]);
    made.take(order(1), 'placed');
    expect(told).toEqual(['FINISHED 1']);
  });

  test('not for history: the first snapshot and pages of the list', () => {
    const { made, told } = book();
    made.take(paid(1), 'first-snapshot');
    made.take(paid(2), 'read');
    made.take(paid(1), 'snapshot');
    expect(told).toEqual([]);
  });
});

test('what is awaited is remembered until its outcome', () => {
  const { made, kept } = book();
  made.take(order(1), 'placed');
  made.take(order(2), 'change');
  expect(kept.ids).toEqual([order(1).id, order(2).id]);
  made.take(paid(1), 'change');
  expect(kept.ids).toEqual([order(2).id]);
  made.forget(order(2).id);
  expect(kept.ids).toEqual([]);
});

test('newest first, by time and then by id', () => {
  const same = order(3, { created_at: order(2).created_at });
  expect([order(1), same, order(2)].sort(newestFirst).map(({ id }) => Number(id.slice(-4)))).toEqual([3, 2, 1]);
});

describe('a list', () => {
  const numbers = (orders: { id: string }[]) => orders.map(({ id }) => Number(id.slice(-4)));

  test('shows new orders on top and the newest versions of the others', () => {
    const { made } = book();
    made.take(paid(2), 'change');
    made.take(order(4), 'change');
    const rows = listed([order(3), order(2)], false, made);
    expect(numbers(rows)).toEqual([4, 3, 2]);
    expect(rows.at(-1)?.status).toBe('FINISHED');
  });

  test('leaves out orders older than its pages reach, until all are read', () => {
    const { made } = book();
    made.take(order(1), 'change');
    expect(numbers(listed([order(3), order(2)], false, made))).toEqual([3, 2]);
    expect(numbers(listed([order(3), order(2)], true, made))).toEqual([3, 2, 1]);
  });

  test('filters by what the orders are now', () => {
    const { made } = book();
    made.take(paid(2), 'change');
    expect(numbers(listed([order(3), order(2)], true, made, 'NEW'))).toEqual([3]);
    expect(numbers(listed([], true, made, 'FINISHED'))).toEqual([2]);
  });
});
