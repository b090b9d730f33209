import type { Order } from '../api/client';
import { backoff } from './backoff';

/** What the server sends. */
export type Frame = { type: 'snapshot'; orders: Order[] } | { type: 'order'; order: Order };

/** `live` begins with the snapshot, not with the open socket. */
export type Connection = 'connecting' | 'live' | 'reconnecting' | 'offline';

/** The world around a stream; tests bring their own. */
export interface Surroundings {
  open(): WebSocket;
  online(): boolean;
  random(): number;
  frame(frame: Frame): void;
  state(state: Connection): void;
}

/** Keeps one WebSocket alive, with backoff, for as long as it is open. */
export class Stream {
  #socket: WebSocket | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #attempt = 0;
  #state: Connection = 'connecting';
  #closed = false;

  constructor(private readonly around: Surroundings) {}

  start(): void {
    this.#connect();
  }

  /** Tries at once: the network or the user came back. */
  hurry(): void {
    if (this.#closed || this.#socket) return;
    this.#attempt = 0;
    this.#connect();
  }

  /** Gives up a socket that can no longer be trusted. */
  drop(): void {
    const socket = this.#socket;
    if (!socket) return;
    this.#lost(socket);
    socket.close();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#socket = null;
  }

  #connect(): void {
    clearTimeout(this.#timer);
    if (!this.around.online()) {
      this.#enter('offline');
      return;
    }
    if (this.#state === 'offline') this.#enter('reconnecting');
    const socket = this.around.open();
    this.#socket = socket;
    socket.onmessage = (message) => {
      if (this.#socket === socket) this.#receive(message.data);
    };
    socket.onclose = () => {
      this.#lost(socket);
    };
  }

  #receive(data: unknown): void {
    const frame = parse(data);
    if (!frame) return;
    if (frame.type === 'snapshot') this.#attempt = 0;
    this.around.frame(frame);
    if (frame.type === 'snapshot') this.#enter('live');
  }

  #lost(socket: WebSocket): void {
    if (this.#closed || this.#socket !== socket) return;
    this.#socket = null;
    this.#enter(this.around.online() ? 'reconnecting' : 'offline');
    this.#timer = setTimeout(() => {
      this.#connect();
    }, backoff(this.#attempt, this.around.random));
    this.#attempt += 1;
  }

  #enter(state: Connection): void {
    if (state === this.#state) return;
    this.#state = state;
    this.around.state(state);
  }
}

/** Frames of a kind we don't know are a newer server's: not ours to judge. */
function parse(data: unknown): Frame | null {
  try {
    const frame = JSON.parse(String(data)) as Frame;
    return frame.type === 'snapshot' || frame.type === 'order' ? frame : null;
  } catch {
    return null;
  }
}
