import type { Action } from './api/outbox';
import type { Order } from './api/client';

/** What a notice tells; the words are chosen when it is shown. */
export type News =
  | { kind: 'outcome'; order: Order }
  /** Several outcomes, counted. */
  | { kind: 'outcomes'; paid: number; cancelled: number }
  | { kind: 'deposit'; amount: number }
  | { kind: 'refused'; action: Action['kind']; code: string }
  | { kind: 'abandoned'; action: Action['kind'] };

export interface Notice {
  id: number;
  news: News;
}

const LIFE_MS = 8_000;

/**
 * The notices on the screen, oldest first. There is one notice of each kind: what comes while it is
 * shown is added to it.
 */
export class Notices {
  list: Notice[] = $state.raw([]);
  #next = 1;
  #timers = new Map<number, ReturnType<typeof setTimeout>>();

  add(news: News): void {
    for (const { id, news: shown } of this.list) {
      const sum = added(shown, news);
      if (sum) {
        this.list = this.list.map((notice) => (notice.id === id ? { id, news: sum } : notice));
        if (this.#timers.has(id)) this.release(id);
        return;
      }
    }
    const id = this.#next++;
    this.list = [...this.list, { id, news }];
    this.release(id);
  }

  dismiss(id: number): void {
    this.keep(id);
    this.list = this.list.filter((notice) => notice.id !== id);
  }

  /** Holds a notice on the screen: somebody is reading it. */
  keep(id: number): void {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
  }

  /** Lets a notice go in its time. */
  release(id: number): void {
    this.keep(id);
    this.#timers.set(
      id,
      setTimeout(() => {
        this.dismiss(id);
      }, LIFE_MS),
    );
  }
}

/** Both pieces of news in one, if they are of the same kind. */
function added(shown: News, news: News): News | undefined {
  const [before, now] = [outcomes(shown), outcomes(news)];
  if (before && now) return { kind: 'outcomes', paid: before.paid + now.paid, cancelled: before.cancelled + now.cancelled };
  if (shown.kind === 'deposit' && news.kind === 'deposit') return { kind: 'deposit', amount: shown.amount + news.amount };
  if (shown.kind === 'refused' && news.kind === 'refused' && shown.action === news.action) return news;
  if (shown.kind === 'abandoned' && news.kind === 'abandoned' && shown.action === news.action) return news;
  return undefined;
}

/** How many orders it tells the outcome of, if it does. */
function outcomes(news: News): { paid: number; cancelled: number } | undefined {
  if (news.kind === 'outcomes') return news;
  if (news.kind !== 'outcome') return undefined;
  const paid = news.order.status === 'FINISHED' ? 1 : 0;
  return { paid, cancelled: 1 - paid };
}

export const notices = new Notices();
