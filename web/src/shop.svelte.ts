import { Client, Refusal, type Account, type Order } from './api/client';
import { Outbox, type Action, type Ending, type Pending } from './api/outbox';
import { OrderBook, type Source } from './live/book.svelte';
import { Stream, type Connection, type Frame } from './live/stream';
import type { Notices } from './notices.svelte';
import { browser, recall, tab } from './storage';
import { uuid } from './uuid';

export type AccountState =
  | { state: 'loading' }
  | { state: 'none' }
  | { state: 'failed' }
  | { state: 'open'; account: Account };

/** What the shop answers to an action. */
type Answer = { kind: 'account'; account: Account } | { kind: 'order'; order: Order };

/** Awaited orders that a snapshot left out are asked for one by one, up to here. */
const ASKED_AFTER_RECONNECT = 50;

/** The shop as one user sees it: account, orders and connection, live. */
export class Shop {
  readonly client: Client;
  readonly orders: OrderBook;
  account: AccountState = $state.raw({ state: 'loading' });
  connection: Connection = $state.raw('connecting');
  pending: Pending[] = $state.raw([]);
  /** Whether the newest orders are known: from the stream, or else by asking. */
  recent: 'loading' | 'ready' | 'failed' = $state('loading');

  readonly #outbox: Outbox<Answer>;
  readonly #stream: Stream;
  readonly #tabs: BroadcastChannel;
  readonly #listeners = new AbortController();
  readonly #sleepers = new Set<() => void>();
  #snapshots = 0;
  #reading: Promise<void> | null = null;
  #readAgain = false;

  constructor(
    readonly user: string,
    private readonly notices: Notices,
    outcome: (order: Order) => void,
  ) {
    this.client = new Client(user);
    const awaited = `gozon.awaited.${user}`;
    this.orders = new OrderBook(recall<string[]>(tab, awaited, []), {
      outcome: (order) => {
        void this.refresh();
        outcome(order);
      },
      awaits: (ids) => {
        tab.setItem(awaited, JSON.stringify(ids));
      },
    });
    this.#outbox = new Outbox(`gozon.pending.${user}`, {
      send: (pending) => this.#send(pending),
      changed: (list) => {
        this.pending = list.map((pending) => ({ ...pending }));
      },
      ended: (pending, ending) => {
        this.#ended(pending, ending);
      },
      storage: tab,
      now: Date.now,
      random: Math.random,
      pause: (ms, firm) => this.#pause(ms, firm),
    });
    this.#stream = new Stream({
      open: () => new WebSocket(streamUrl(user)),
      online: () => navigator.onLine,
      random: Math.random,
      frame: (frame) => {
        this.#receive(frame);
      },
      state: (state) => {
        this.#enter(state);
      },
    });
    this.#tabs = new BroadcastChannel(`gozon.${user}`);
  }

  start(): void {
    const { signal } = this.#listeners;
    this.#tabs.onmessage = (message: MessageEvent<Account>) => {
      this.#adopt(message.data);
    };
    const wake = () => {
      this.#stream.hurry();
      this.#wakeSleepers();
      void this.refresh();
    };
    addEventListener('online', wake, { signal });
    addEventListener('focus', wake, { signal });
    document.addEventListener('visibilitychange', () => !document.hidden && wake(), { signal });
    addEventListener('offline', () => { this.#stream.drop(); }, { signal });
    this.#stream.start();
    this.#outbox.resume();
    void this.refresh();
  }

  close(): void {
    this.#outbox.close();
    this.#stream.close();
    this.#tabs.close();
    this.#listeners.abort();
    this.#wakeSleepers();
  }

  /** Asks for something once; resolves when the shop has answered for certain. */
  submit(action: Action, key: string = uuid()): Promise<Ending<Answer>> {
    return this.#outbox.submit(action, key);
  }

  abandon(key: string): void {
    this.#outbox.abandon(key);
  }

  /** The pending action of a kind, if any. */
  pendingOf(kind: Action['kind']): Pending | undefined {
    return this.pending.find((pending) => pending.kind === kind);
  }

  /** Reads the account again; calls during a read share one more read. */
  refresh(): Promise<void> {
    this.#readAgain = true;
    this.#reading ??= this.#readWhileAsked().finally(() => {
      this.#reading = null;
    });
    return this.#reading;
  }

  /** Reads the newest orders where the stream can't be had. */
  async readRecent(): Promise<void> {
    try {
      const page = await this.client.orders(20);
      for (const order of page.items) this.orders.take(order, 'read');
      this.recent = 'ready';
    } catch {
      if (this.recent === 'loading') this.recent = 'failed';
    }
  }

  async #readWhileAsked(): Promise<void> {
    while (this.#readAgain) {
      this.#readAgain = false;
      try {
        this.#adopt(await this.client.balance());
      } catch (error) {
        // Accounts never go away: without one, an answer can only be older than the opening.
        if (this.account.state === 'open') continue;
        if (error instanceof Refusal && error.status === 404) this.account = { state: 'none' };
        else if (this.account.state === 'loading') this.account = { state: 'failed' };
      }
    }
  }

  /** An older version never replaces a newer one, whichever comes last. */
  #adopt(account: Account): void {
    if (this.account.state === 'open' && this.account.account.version > account.version) return;
    this.account = { state: 'open', account };
  }

  async #send(pending: Pending): Promise<Answer> {
    switch (pending.kind) {
      case 'open':
        return { kind: 'account', account: await this.client.openAccount(pending.key) };
      case 'deposit':
        return { kind: 'account', account: await this.client.deposit(pending.body, pending.key) };
      case 'order':
        return { kind: 'order', order: await this.client.placeOrder(pending.body, pending.key) };
    }
  }

  #ended(pending: Pending, ending: Ending<Answer>): void {
    if (ending.outcome === 'done') {
      if (ending.value.kind === 'order') this.orders.take(ending.value.order, 'placed');
      else {
        this.#adopt(ending.value.account);
        this.#tabs.postMessage(ending.value.account);
        if (pending.kind === 'deposit') this.notices.add({ kind: 'deposit', amount: pending.body.amount });
      }
    } else if (ending.outcome === 'abandoned') {
      this.notices.add({ kind: 'abandoned', action: pending.kind });
    } else {
      // Another tab was faster to open the account: that is what was wanted.
      const wanted = pending.kind === 'open' && ending.refusal.code === 'account_exists';
      if (!wanted) this.notices.add({ kind: 'refused', action: pending.kind, code: ending.refusal.code });
      void this.refresh();
    }
  }

  #receive(frame: Frame): void {
    if (frame.type === 'order') {
      this.orders.take(frame.order, 'change');
      return;
    }
    const source: Source = this.#snapshots++ > 0 ? 'snapshot' : 'first-snapshot';
    for (const order of frame.orders) this.orders.take(order, source);
    this.recent = 'ready';
    void this.#askFor(new Set(frame.orders.map((order) => order.id)));
  }

  /** The snapshot is bounded; awaited orders beyond it are read one by one. */
  async #askFor(listed: Set<string>): Promise<void> {
    const missing = this.orders.awaited().filter((id) => !listed.has(id));
    for (const id of missing.slice(-ASKED_AFTER_RECONNECT)) {
      try {
        this.orders.take(await this.client.order(id), 'read');
      } catch (error) {
        if (!(error instanceof Refusal)) return;
        if (error.status === 404) this.orders.forget(id);
      }
    }
  }

  #enter(state: Connection): void {
    this.connection = state;
    if (state !== 'live') {
      if (this.recent !== 'ready') void this.readRecent();
      return;
    }
    this.#wakeSleepers();
    void this.refresh();
  }

  #pause(ms: number, firm: boolean): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.#sleepers.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      if (!firm) this.#sleepers.add(wake);
    });
  }

  #wakeSleepers(): void {
    for (const wake of [...this.#sleepers]) wake();
  }
}

function streamUrl(user: string): string {
  const url = new URL('/orders/stream', location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  url.searchParams.set('user_id', user);
  return url.href;
}

/** Which user this tab serves: its own choice, or the browser's last one. */
export function rememberedUser(): string | null {
  return tab.getItem('gozon.user') ?? browser.getItem('gozon.user');
}

export function rememberUser(user: string): void {
  tab.setItem('gozon.user', user);
  browser.setItem('gozon.user', user);
}
