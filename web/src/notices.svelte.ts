import type { Action } from './api/outbox';
import type { Order } from './api/client';

/** What a notice tells; the words are chosen when it is shown. */
export type News =
  | { kind: 'outcome'; order: Order }
  /** Outcomes too many to show one by one. */
  | { kind: 'outcomes'; paid: number; cancelled: number }
  | { kind: 'deposit'; amount: number }
  | { kind: 'refused'; action: Action['kind']; code: string }
  | { kind: 'abandoned'; action: Action['kind'] };

export interface Notice {
  id: number;
  news: News;
}

/** More outcomes than this on the screen are counted instead of listed. */
const LISTED = 2;
const LIFE_MS = 8_000;

/** The notices on the screen, oldest first. */
export class Notices {
  list: Notice[] = $state.raw([]);
  #next = 1;
  #timers = new Map<number, ReturnType<typeof setTimeout>>();

  add(news: News): void {
    if (news.kind === 'outcome') this.#addOutcome(news.order);
    else this.#show(news);
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

  #addOutcome(order: Order): void {
    const paid = order.status === 'FINISHED' ? 1 : 0;
    const heap = this.list.find((notice) => notice.news.kind === 'outcomes');
    if (heap?.news.kind === 'outcomes') {
      const { paid: before, cancelled } = heap.news;
      this.#replace(heap.id, { kind: 'outcomes', paid: before + paid, cancelled: cancelled + 1 - paid });
    } else if (this.list.filter((notice) => notice.news.kind === 'outcome').length >= LISTED) {
      this.#show({ kind: 'outcomes', paid, cancelled: 1 - paid });
    } else {
      this.#show({ kind: 'outcome', order });
    }
  }

  #show(news: News): void {
    const id = this.#next++;
    this.list = [...this.list, { id, news }];
    this.release(id);
  }

  #replace(id: number, news: News): void {
    this.list = this.list.map((notice) => (notice.id === id ? { id, news } : notice));
    this.release(id);
  }
}

export const notices = new Notices();
