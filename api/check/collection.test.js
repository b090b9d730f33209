// The Postman collection passes against a shop in one process, and names every call there is.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import newman from 'newman';

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const program = process.env.GOZON_BIN ?? path('../target/debug/gozon');

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** Starts a shop of its own for the test, and waits until it is ready. */
async function openShop(t) {
  const folder = await mkdtemp(join(tmpdir(), 'gozon-collection-'));
  const url = `http://127.0.0.1:${await freePort()}`;
  const admin = `127.0.0.1:${await freePort()}`;
  const args = ['up', '--listen', url.slice('http://'.length), '--admin-listen', admin];
  const shop = spawn(program, [...args, '--data-dir', folder], {
    env: { PATH: process.env.PATH, GOZON_LOG: 'warn' },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const ended = new Promise((resolve) => {
    shop.once('error', resolve);
    shop.once('exit', (code, signal) => resolve(new Error(`it ended: ${code ?? signal}`)));
  });
  t.after(async () => {
    shop.kill('SIGKILL');
    await ended;
    await rm(folder, { recursive: true });
  });
  const failed = ended.then((error) => {
    throw new Error(`${program} does not run; build it with: cargo build`, { cause: error });
  });
  await Promise.race([failed, ready(url)]);
  failed.catch(() => {});
  return url;
}

async function ready(url) {
  for (;;) {
    const answer = await fetch(`${url}/readyz`).catch(() => undefined);
    if (answer?.ok) return;
    await sleep(50);
  }
}

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

// What takes a limit's worth of sockets or deposits, or an outage, is tested with the services.
const ELSEWHERE = ['service_unavailable', 'too_many_sockets', 'balance_limit', 'origin_not_allowed'];

function codes(responses) {
  const described = Object.values(responses).flatMap(({ description = '' }) => {
    return [...description.matchAll(/`([a-z_]+)`/g)].map(([, code]) => code);
  });
  return described.filter((code) => !ELSEWHERE.includes(code));
}
