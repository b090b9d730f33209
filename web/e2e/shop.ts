import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Account, Order, Page } from '../src/api/client';

const WEB = resolve(import.meta.dirname, '..');
const BINARY = resolve(WEB, process.env.GOZON_BIN ?? '../target/debug/gozon');
const READY_MS = 60_000;

/** The real shop in one process, with data of its own, to be killed at will. */
export class Shop {
  #process: ChildProcess | null = null;

  private constructor(
    readonly url: string,
    private readonly data: string,
  ) {}

  static async start(): Promise<Shop> {
    if (!existsSync(BINARY)) throw new Error(`${BINARY} is missing: cargo build -p gozon (or set GOZON_BIN)`);
    const shop = new Shop(`http://127.0.0.1:${await freePort()}`, mkdtempSync(join(tmpdir(), 'gozon-e2e-')));
    await shop.up();
    return shop;
  }

  /** Starts the process, again on the same data, and waits until it is ready. */
  async up(): Promise<void> {
    const listen = new URL(this.url).host;
    const args = ['up', '--listen', listen, '--data-dir', this.data, '--web-dir', join(WEB, 'dist')];
    const env = { ...process.env, GOZON_ADMIN_LISTEN: `127.0.0.1:${await freePort()}` };
    const child = spawn(BINARY, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#process = child;
    let log = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (log = (log + String(chunk)).slice(-4000)));
    const deadline = Date.now() + READY_MS;
    while (!(await this.#ready())) {
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`the shop did not start:\n${log}`);
      await new Promise((again) => setTimeout(again, 50));
    }
  }

  /** `kill -9`: no goodbye, nothing flushed. */
  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (!child || child.exitCode !== null) return;
    const gone = new Promise((done) => child.once('exit', done));
    child.kill('SIGKILL');
    await gone;
  }

  async close(): Promise<void> {
    await this.kill();
    rmSync(this.data, { recursive: true, force: true });
  }

  async account(user: string): Promise<Account> {
    return (await this.#get('/accounts/balance', user)) as Account;
  }

  async orders(user: string): Promise<Order[]> {
    return ((await this.#get('/orders?limit=100', user)) as Page<Order>).items;
  }

  /** Does something that no page of the test knows of. */
  async post(path: '/accounts' | '/accounts/deposit' | '/orders', user: string, body?: object): Promise<void> {
    const response = await fetch(this.url + path, {
      method: 'POST',
      headers: { 'X-User-Id': user, ...(body && { 'Content-Type': 'application/json' }) },
      body: body && JSON.stringify(body),
    });
    if (!response.ok) throw new Error(`POST ${path}: ${response.status} ${await response.text()}`);
  }

  async #get(path: string, user: string): Promise<unknown> {
    const response = await fetch(this.url + path, { headers: { 'X-User-Id': user } });
    if (!response.ok) throw new Error(`GET ${path}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  async #ready(): Promise<boolean> {
    try {
      return (await fetch(`${this.url}/readyz`)).ok;
    } catch {
      return false;
    }
  }
}

function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once('error', fail);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => {
        if (address && typeof address === 'object') done(address.port);
        else fail(new Error('no port'));
      });
    });
  });
}
