import { expect, test } from 'vitest';
import { Pager } from './pager.svelte';

/** A list of numbers, newest (highest) first, in pages of two. */
function pages(list: number[]) {
  const source = { list, broken: false };
  const pager = new Pager<number>(
    (cursor) => {
      if (source.broken) return Promise.reject(new Error('broken'));
      const rest = source.list.filter((n) => cursor === undefined || n < Number(cursor));
      const items = rest.slice(0, 2);
      return Promise.resolve({ items, next_cursor: rest.length > 2 ? String(items.at(-1)) : null });
    },
    (n) => n,
  );
  return { pager, source };
}

test('reads page by page to the end', async () => {
  const { pager } = pages([5, 4, 3, 2, 1]);
  await pager.next();
  expect([pager.items, pager.more]).toEqual([[5, 4], true]);
  await pager.next();
  await pager.next();
  expect([pager.items, pager.more]).toEqual([[5, 4, 3, 2, 1], false]);
});

test('renewing puts what is new on top and keeps the place below', async () => {
  const { pager, source } = pages([4, 3, 2, 1]);
  await pager.next();
  source.list = [5, ...source.list];
  await pager.renew();
  await pager.next();
  expect(pager.items).toEqual([5, 4, 3, 2, 1]);
});

test('renewing starts over where the pages no longer meet', async () => {
  const { pager, source } = pages([4, 3, 2, 1]);
  await pager.next();
  source.list = [8, 7, 6, 5, ...source.list];
  await pager.renew();
  expect(pager.items).toEqual([8, 7]);
  await pager.next();
  expect(pager.items).toEqual([8, 7, 6, 5]);
});

test('a failure keeps what is there and can be tried again', async () => {
  const { pager, source } = pages([3, 2, 1]);
  await pager.next();
  source.broken = true;
  await pager.next();
  expect([pager.state, pager.items]).toEqual(['failed', [3, 2]]);
  await pager.renew();
  source.broken = false;
  await pager.next();
  expect([pager.state, pager.items]).toEqual(['ready', [3, 2, 1]]);
});
