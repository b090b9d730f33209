import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { order } from '../test/orders';
import { backoff } from './backoff';
import { Stream, type Connection, type Frame } from './stream';

class Socket {
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;
  closed = false;

  close() {
    this.closed = true;
    this.onclose?.();
  }

  say(frame: unknown) {
    this.onmessage?.({ data: typeof frame === 'string' ? frame : JSON.stringify(frame) });
  }
}

function stream() {
  const sockets: Socket[] = [];
  const states: Connection[] = [];
  const frames: Frame[] = [];
  const network = { up: true };
  const made = new Stream({
    open: () => {
      const socket = new Socket();
      sockets.push(socket);
      return socket as unknown as WebSocket;
    },
    online: () => network.up,
    random: () => 1,
    frame: (frame) => frames.push(frame),
    state: (state) => states.push(state),
  });
  return { made, sockets, states, frames, network };
}

const snapshot = { type: 'snapshot', orders: [] };

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

test('is live from the snapshot on', () => {
  const { made, sockets, states, frames } = stream();
  made.start();
  expect(states).toEqual([]);
  sockets[0]?.say(snapshot);
  expect(states).toEqual(['live']);
  sockets[0]?.say({ type: 'order', order: order(1) });
  expect(frames.map(({ type }) => type)).toEqual(['snapshot', 'order']);
});

test('reconnects with growing pauses and starts over after a snapshot', () => {
  const { made, sockets, states } = stream();
  made.start();
  sockets[0]?.say(snapshot);
  sockets[0]?.close();
  vi.advanceTimersByTime(399);
  expect(sockets).toHaveLength(1);
  vi.advanceTimersByTime(1);
  expect(sockets).toHaveLength(2);
  sockets[1]?.close();
  vi.advanceTimersByTime(799);
  expect(sockets).toHaveLength(2);
  vi.advanceTimersByTime(1);
  sockets[2]?.say(snapshot);
  sockets[2]?.close();
  vi.advanceTimersByTime(400);
  expect(sockets).toHaveLength(4);
  expect(states).toEqual(['live', 'reconnecting', 'live', 'reconnecting']);
});

test('is offline without a network, and hurries when it is back', () => {
  const { made, sockets, states, network } = stream();
  made.start();
  sockets[0]?.say(snapshot);
  network.up = false;
  made.drop();
  expect(states).toEqual(['live', 'offline']);
  vi.advanceTimersByTime(60_000);
  expect(sockets).toHaveLength(1);
  network.up = true;
  made.hurry();
  expect(sockets).toHaveLength(2);
  expect(states).toEqual(['live', 'offline', 'reconnecting']);
});

test('a dropped socket is not heard any more', () => {
  const { made, sockets, frames } = stream();
  made.start();
  made.drop();
  sockets[0]?.say(snapshot);
  expect(frames).toEqual([]);
});

test('hurrying never opens a second socket', () => {
  const { made, sockets } = stream();
  made.start();
  made.hurry();
  made.hurry();
  expect(sockets).toHaveLength(1);
});

test('a closed stream stays closed', () => {
  const { made, sockets, states } = stream();
  made.start();
  made.close();
  made.hurry();
  vi.advanceTimersByTime(60_000);
  expect(sockets).toHaveLength(1);
  expect(sockets[0]?.closed).toBe(true);
  expect(states).toEqual([]);
});

test('what is not a known frame is passed over', () => {
  const { made, sockets, frames } = stream();
  made.start();
  for (const odd of ['', '{', 'null', '{"type":"news"}', '[]']) sockets[0]?.say(odd);
  expect(frames).toEqual([]);
});

test('pauses double up to a ceiling, with jitter over the upper half', () => {
  expect([0, 1, 2, 3].map((attempt) => backoff(attempt, () => 1))).toEqual([400, 800, 1600, 3200]);
  expect(backoff(2, () => 0)).toBe(800);
  expect(backoff(1000, () => 1)).toBe(15_000);
});
