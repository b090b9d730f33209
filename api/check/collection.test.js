// The Postman collection passes against a shop in one process, and names every call there is.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

import newman from 'newman';

import { openShop, path } from './shop.js';

test('the collection passes', async (t) => {
  const baseUrl = await openShop(t);
  const summary = await new Promise((resolve, reject) => {
    newman.run(
      {
        collection: path('gozon.postman_collection.json'),
        envVar: [{ key: 'baseUrl', value: baseUrl }],
        timeoutRequest: 60_000,
      },
      (error, done) => (error ? reject(error) : resolve(done)),
    );
  });
  const failures = summary.run.failures.map(({ source, error }) => `${source?.name}: ${error}`);
  assert.deepEqual(failures, []);
  assert.ok(summary.run.stats.assertions.total > 100, 'its tests ran');
});

test('the collection has every call and every code of the OpenAPI document', async () => {
  const text = await readFile(path('gozon.postman_collection.json'), 'utf8');
  const requests = JSON.parse(text).item.flatMap(({ item }) => item.map((one) => one.request));
  const asked = requests.map(({ method, url }) => {
    const plain = url.replace('{{baseUrl}}', '').replace(/\?.*/, '');
    return `${method} ${plain.replace(/^\/orders\/(?!stream).+/, '/orders/{id}')}`;
  });
  const { paths } = JSON.parse(await readFile(path('openapi.json'), 'utf8'));
  for (const [route, calls] of Object.entries(paths)) {
    for (const [method, { responses }] of Object.entries(calls)) {
      const call = `${method.toUpperCase()} ${route}`;
      assert.ok(asked.includes(call), `no request for ${call}`);
      for (const code of codes(responses)) {
        assert.ok(text.includes(`'${code}'`) || text.includes(`${code}:`), `no test for ${code}`);
      }
    }
  }
});

// What takes a limit's worth of sockets or deposits, load, an outage, or a request that no HTTP
// library sends, is tested with the services and the gateway.
const ELSEWHERE = [
  ...['service_unavailable', 'too_many_sockets', 'balance_limit', 'origin_not_allowed'],
  'too_many_unsettled',
  ...['bad_gateway', 'upstream_timeout', 'upstream_unavailable', 'overloaded', 'rate_limited'],
  ...['invalid_host', 'invalid_request', 'body_unreadable', 'request_timeout'],
  'unsupported_transfer_encoding',
];

function codes(responses) {
  const described = Object.values(responses).flatMap(({ description = '' }) => {
    return [...description.matchAll(/`([a-z_]+)`/g)].map(([, code]) => code);
  });
  return described.filter((code) => !ELSEWHERE.includes(code));
}
