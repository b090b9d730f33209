import { afterEach, expect, test, vi } from 'vitest';
import { Client, Refusal } from './client';

const USER = '0a11a000-0000-4000-8000-000000000001';

function answering(status: number, body: unknown, headers: Record<string, string> = {}) {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const fetched = vi.fn<typeof fetch>(() => Promise.resolve(new Response(text, { status, headers })));
  vi.stubGlobal('fetch', fetched);
  return fetched;
}

afterEach(() => vi.unstubAllGlobals());

test('a POST carries the user, the key and JSON', async () => {
  const fetched = answering(201, { id: 'o' });
  await new Client(USER).placeOrder({ amount: 5, description: 'чай' }, 'key-1');
  const [url, init] = fetched.mock.calls[0] ?? [];
  const headers = new Headers(init?.headers);
  expect(url).toBe('/orders');
  expect(init?.method).toBe('POST');
  expect(init?.body).toBe('{"amount":5,"description":"чай"}');
  expect(headers.get('X-User-Id')).toBe(USER);
  expect(headers.get('Idempotency-Key')).toBe('key-1');
  expect(headers.get('Content-Type')).toBe('application/json');
});

test('paths and queries are escaped, absent ones left out', async () => {
  const fetched = answering(200, { items: [], next_cursor: null });
  const client = new Client(USER);
  await client.order('a/b?c');
  await client.orders(20, undefined, 'NEW');
  await client.entries(50, 'x=&y');
  expect(fetched.mock.calls.map(([url]) => url)).toEqual([
    '/orders/a%2Fb%3Fc',
    '/orders?limit=20&status=NEW',
    '/accounts/entries?limit=50&cursor=x%3D%26y',
  ]);
});

test('a problem becomes a refusal with its code and patience', async () => {
  answering(429, { code: 'rate_limited' }, { 'Retry-After': '3' });
  const refusal = await new Client(USER).balance().catch((error: unknown) => error);
  expect(refusal).toBeInstanceOf(Refusal);
  expect(refusal).toMatchObject({ status: 429, code: 'rate_limited', retryAfter: 3000 });
});

test('an error without a problem document is a refusal all the same', async () => {
  answering(502, '<html>Bad Gateway</html>');
  await expect(new Client(USER).balance()).rejects.toMatchObject({ status: 502, code: 'unknown', retryAfter: null });
});
