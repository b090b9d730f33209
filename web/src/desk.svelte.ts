import { i18n } from './i18n/i18n.svelte';
import { notices } from './notices.svelte';
import { ring } from './ring';
import { rememberUser, rememberedUser, Shop } from './shop.svelte';
import { browser, recall } from './storage';
import { isUuid, shortId, uuid } from './uuid';

/** Somebody who shops here; without a name, the id must do. */
export interface Person {
  id: string;
  name: string;
}

/** Two users for a first look: one who can pay, one who mostly can't. */
export const DEMO = [
  { id: '0a11a000-0000-4000-8000-000000000001', who: 'anna', gift: 1_000_000 },
  { id: '0b0b0000-0000-4000-8000-000000000002', who: 'boris', gift: 100_000 },
] as const;

const PEOPLE = 'gozon.people';

/** Who is at the counter, and the shop as they see it. */
class Desk {
  shop: Shop | null = $state.raw(null);
  /** Users made up in this browser. */
  people: Person[] = $state.raw([]);

  start(): void {
    this.people = recall<Person[]>(browser, PEOPLE, []);
    const user = rememberedUser();
    if (user !== null && isUuid(user)) this.#serve(user);
  }

  /** The name to greet a user by. */
  name(id: string): string {
    const demo = DEMO.find((one) => one.id === id);
    if (demo) return i18n.t.people[demo.who];
    return this.people.find((person) => person.id === id)?.name ?? `#${shortId(id)}`;
  }

  /** Changes to another user; what is pending for the present one is kept. */
  choose(user: string): void {
    if (this.shop?.user === user) return;
    rememberUser(user);
    this.#serve(user);
  }

  add(name: string, id: string = uuid()): void {
    if (!this.people.some((person) => person.id === id) && !DEMO.some((demo) => demo.id === id)) {
      this.people = [...this.people, { id, name: name.trim() || `#${shortId(id)}` }];
      browser.setItem(PEOPLE, JSON.stringify(this.people));
    }
    this.choose(id);
  }

  /**
   * Serves a demo user, with an account and a first top-up where there is none.
   * The keys are fixed, so two tabs doing this at once make one gift.
   */
  async demo({ id, gift }: (typeof DEMO)[number]): Promise<void> {
    this.choose(id);
    const { shop } = this;
    if (!shop) return;
    await shop.refresh();
    if (shop.account.state !== 'none' || shop.pendingOf('open')) return;
    const opened = await shop.submit({ kind: 'open' }, `demo-open-${id}`);
    if (opened.outcome === 'done') await shop.submit({ kind: 'deposit', body: { amount: gift } }, `demo-gift-${id}`);
  }

  #serve(user: string): void {
    this.shop?.close();
    const shop = new Shop(user, notices, (order) => {
      notices.add({ kind: 'outcome', order });
      ring(order);
    });
    this.shop = shop;
    shop.start();
  }
}

export const desk = new Desk();
