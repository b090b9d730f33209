import { backoff } from '../live/backoff';
import { Refusal, type Deposit, type NewOrder } from './client';

/** Something the user asked for that must happen exactly once. */
export type Action =
  | { kind: 'open' }
  | { kind: 'deposit'; body: Deposit }
  | { kind: 'order'; body: NewOrder };

/** An action without a definite answer yet. */
export type Pending = Action & {
  /** The Idempotency-Key, the same for every try. */
  key: string;
  /** When it was first asked for, in milliseconds since the epoch. */
  since: number;
  /** Tries that brought no answer. */
  failures: number;
};

/** How an action ended: the shop's answer, its refusal, or nothing at all. */
export type Ending<T> =
  | { outcome: 'done'; value: T }
  | { outcome: 'refused'; refusal: Refusal }
  | { outcome: 'abandoned' };

/** The world around an outbox; tests bring their own. */
export interface World<T> {
  send(pending: Pending): Promise<T>;
  /** Called on every change of the list of pending actions. */
  changed(pending: Pending[]): void;
  ended(pending: Pending, ending: Ending<T>): void;
  storage: Pick<Storage, 'getItem' | 'setItem' | 'removeItem'>;
  now(): number;
  random(): number;
  /** Resolves after `ms`; unless `firm`, sooner when there is reason to hope. */
  pause(ms: number, firm: boolean): Promise<void>;
}

/** The shop forgets a key after a day; a try beyond that could do a thing twice. */
const KEY_LIFE_MS = 23 * 60 * 60 * 1000;

/**
 * Sends actions until each has a definite answer.
 *
 * Every action carries one Idempotency-Key through all of its tries and is
 * kept in the session's storage meanwhile, so neither a broken connection nor
 * a reload loses it or does it twice.
 */
export class Outbox<T> {
  #pending: Pending[] = [];
  #closed = false;

  constructor(
    private readonly slot: string,
    private readonly world: World<T>,
  ) {}

  /** Takes up what an earlier life of this page left unanswered. */
  resume(): void {
    for (const pending of read(this.world.storage, this.slot)) {
      this.#pending.push(pending);
      void this.#run(pending);
    }
    this.world.changed(this.#pending);
  }

  submit(action: Action, key: string): Promise<Ending<T>> {
    const pending: Pending = { ...action, key, since: this.world.now(), failures: 0 };
    this.#pending.push(pending);
    this.#save();
    return this.#run(pending);
  }

  /** Stops trying. Whether the shop heard an earlier try stays unknown. */
  abandon(key: string): void {
    const pending = this.#pending.find((other) => other.key === key);
    if (pending) this.#end(pending, { outcome: 'abandoned' });
  }

  /** Stops sending but forgets nothing: the next life resumes it. */
  close(): void {
    this.#closed = true;
  }

  async #run(pending: Pending): Promise<Ending<T>> {
    for (;;) {
      if (this.world.now() - pending.since > KEY_LIFE_MS) return this.#end(pending, { outcome: 'abandoned' });
      let asked = 0;
      try {
        return this.#end(pending, { outcome: 'done', value: await this.world.send(pending) });
      } catch (error) {
        if (error instanceof Refusal) {
          if (isDefinite(error.status)) return this.#end(pending, { outcome: 'refused', refusal: error });
          asked = error.retryAfter ?? 0;
        }
      }
      const wait = backoff(pending.failures, this.world.random);
      pending.failures += 1;
      this.#save();
      await this.world.pause(Math.max(wait, asked), asked > 0);
      if (this.#closed || !this.#pending.includes(pending)) return { outcome: 'abandoned' };
    }
  }

  #end(pending: Pending, ending: Ending<T>): Ending<T> {
    // Once closed, the answer is left to the next life, which asks for it again.
    if (!this.#closed && this.#pending.includes(pending)) {
      this.#pending = this.#pending.filter((other) => other !== pending);
      this.#save();
      this.world.ended(pending, ending);
    }
    return ending;
  }

  #save(): void {
    if (this.#closed) return;
    if (this.#pending.length > 0) this.world.storage.setItem(this.slot, JSON.stringify(this.#pending));
    else this.world.storage.removeItem(this.slot);
    this.world.changed(this.#pending);
  }
}

/** False where the shop may or may not have done it: overload and 5xx. */
function isDefinite(status: number): boolean {
  return status < 500 && status !== 429 && status !== 408;
}

function read(storage: World<unknown>['storage'], slot: string): Pending[] {
  try {
    const kept: unknown = JSON.parse(storage.getItem(slot) ?? '[]');
    return Array.isArray(kept) ? (kept as Pending[]) : [];
  } catch {
    return [];
  }
}
