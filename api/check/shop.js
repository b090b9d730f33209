// A shop in one process for a test.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

/** A file in api/. */
export const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
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
export async function openShop(t) {
  const folder = await newFolder();
  const admin = `127.0.0.1:${await freePort()}`;
  return start(t, folder, ['up', '--admin-listen', admin, '--data-dir', folder]);
}

/** Starts one service by itself, on a file and a broker of its own: nobody hears what it sends. */
export async function openService(t, service) {
  const folder = await newFolder();
  const database = `sqlite:${join(folder, `${service}.db`)}`;
  return start(t, folder, [service, '--database-url', database, '--broker-url', 'memory:']);
}

const newFolder = () => mkdtemp(join(tmpdir(), 'gozon-api-'));

/** Starts a process that has this folder for its data. */
async function start(t, folder, args) {
  const url = `http://127.0.0.1:${await freePort()}`;
  const shop = spawn(program, [...args, '--listen', url.slice('http://'.length)], {
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
