import { SvelteMap } from 'svelte/reactivity';
import type { Order, OrderStatus } from '../api/client';

/** Where the news of an order came from. */
export type Source =
  /** A pushed change. */
  | 'change'
  /** The snapshot at the start of a page's life. */
  | 'first-snapshot'
  /** The snapshot after a reconnect. */
  | 'snapshot'
  /** The answer to placing it. */
  | 'placed'
  /** A page of the list or a single read. */
  | 'read';

/**
 * The newest known version of each order, and which outcomes the user has yet
 * to be told. An outcome is told once, whichever way it comes.
 */
export class OrderBook {
  readonly #orders = new SvelteMap<string, Order>();
  readonly #awaited: Set<string>;
  readonly #told = new Set<string>();

  constructor(
    awaited: Iterable<string>,
    private readonly world: {
      outcome(order: Order): void;
      awaits(ids: string[]): void;
    },
  ) {
    this.#awaited = new Set(awaited);
  }

  get(id: string): Order | undefined {
    return this.#orders.get(id);
  }

  /** All known orders, newest first. */
  newest(): Order[] {
    return [...this.#orders.values()].sort(newestFirst);
  }

  awaited(): string[] {
    return [...this.#awaited];
  }

  /** The shop has no such order (any more): nothing to wait for. */
  forget(id: string): void {
    if (this.#awaited.delete(id)) this.world.awaits(this.awaited());
  }

  take(order: Order, source: Source): void {
    const known = this.#orders.get(order.id);
    const fresh = !known || order.version > known.version;
    if (fresh) this.#orders.set(order.id, order);
    const newest = fresh ? order : known;
    if (!isFinal(newest)) {
      this.#await(newest.id);
    } else if (this.#isNews(newest, source, known)) {
      this.#tell(newest);
    }
  }

  #isNews(order: Order, source: Source, known: Order | undefined): boolean {
    if (this.#awaited.has(order.id)) return true;
    if (this.#told.has(order.id)) return false;
    switch (source) {
      case 'placed':
        return true;
      case 'change':
      case 'snapshot':
        return !known;
      case 'first-snapshot':
      case 'read':
        return false;
    }
  }

  #await(id: string): void {
    if (this.#awaited.has(id)) return;
    this.#awaited.add(id);
    this.world.awaits(this.awaited());
  }

  #tell(order: Order): void {
    this.#told.add(order.id);
    this.forget(order.id);
    this.world.outcome(order);
  }
}

/** An order that will not change again. */
export function isFinal(order: Order): boolean {
  return order.status !== 'NEW';
}

/** Ids are UUIDv7, so they break a tie of the clock in order of creation. */
export function newestFirst(a: Order, b: Order): number {
  const [left, right] = [Date.parse(a.created_at), Date.parse(b.created_at)];
  if (left !== right) return right - left;
  return a.id < b.id ? 1 : a.id > b.id ? -1 : 0;
}

/**
 * The rows of a list: what the server's pages brought, in their newest known
 * version, and the orders that appeared since, as far back as the pages reach.
 */
export function listed(pages: Order[], complete: boolean, book: OrderBook, status?: OrderStatus): Order[] {
  const oldest = pages.at(-1);
  const rows = new Map(pages.map((order) => [order.id, book.get(order.id) ?? order]));
  for (const order of book.newest()) {
    if (complete || (oldest && newestFirst(order, oldest) < 0)) rows.set(order.id, order);
  }
  return [...rows.values()].filter((order) => !status || order.status === status).sort(newestFirst);
}
