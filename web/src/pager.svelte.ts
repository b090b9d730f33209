import type { Page } from './api/client';

/** A list read page by page, newest first. */
export class Pager<T> {
  items: T[] = $state.raw([]);
  state: 'loading' | 'ready' | 'failed' = $state('loading');
  /** True while there are older items to ask for. */
  more = $state(false);
  #cursor: string | undefined;

  constructor(
    private readonly read: (cursor?: string) => Promise<Page<T>>,
    private readonly key: (item: T) => string | number,
  ) {}

  /** Appends the next page, which is the first one at first. */
  async next(): Promise<void> {
    this.state = 'loading';
    try {
      const page = await this.read(this.#cursor);
      this.#follow(page);
      this.items = this.#merge(this.items, page.items);
      this.state = 'ready';
    } catch {
      this.state = 'failed';
    }
  }

  /**
   * Reads the first page again and puts what is new on top. Where so much is
   * new that the pages no longer meet, the list starts over.
   */
  async renew(): Promise<void> {
    if (this.state === 'failed' && this.items.length === 0) return this.next();
    try {
      const page = await this.read();
      const keys = new Set(this.items.map(this.key));
      const meets = page.items.some((item) => keys.has(this.key(item)));
      if (!meets) this.#follow(page);
      this.items = this.#merge(page.items, meets ? this.items : []);
    } catch {
      // What is shown stays; the next change or reconnect tries again.
    }
  }

  #follow(page: Page<T>): void {
    this.#cursor = page.next_cursor ?? undefined;
    this.more = this.#cursor !== undefined;
  }

  #merge(first: T[], second: T[]): T[] {
    const keys = new Set(first.map(this.key));
    return [...first, ...second.filter((item) => !keys.has(this.key(item)))];
  }
}
