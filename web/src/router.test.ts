import { expect, test } from 'vitest';
import { href, parse } from './router.svelte';

test.each([
  ['', { page: 'counter' }],
  ['#', { page: 'counter' }],
  [href.counter, { page: 'counter' }],
  [href.orders, { page: 'orders', status: null }],
  [href.ordersBy('NEW'), { page: 'orders', status: 'NEW' }],
  [href.order('abc'), { page: 'order', id: 'abc' }],
  [href.account, { page: 'account' }],
  [href.people, { page: 'people' }],
  ['#/nowhere', { page: 'lost' }],
  ['#/account/more', { page: 'lost' }],
])('%s', (hash, route) => {
  expect(parse(hash)).toEqual(route);
});
