import { existsSync } from 'node:fs';
import { randomUUID } from 'node:crypto';
import { chromium, type Browser, type BrowserContext, type BrowserContextOptions, type Page, type WebSocketRoute } from 'playwright-core';
import { expect } from 'vitest';
import { en, type Messages } from '../src/i18n/en';
import { Format } from '../src/i18n/format';
import { ru } from '../src/i18n/ru';
import type { Lang } from '../src/money';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const PATIENCE_MS = 30_000;

export async function launch(): Promise<Browser> {
  if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is missing: apt-get install chromium`);
  return chromium.launch({
    executablePath: CHROMIUM,
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
}

export const LOCALES: Record<Lang, string> = { en: 'en-GB', ru: 'ru-RU' };

/** A visitor's browser: one language, one memory, any number of tabs. */
export class Visitor {
  readonly t: Messages;
  readonly format: Format;
  /** What broke the rules: foreign requests, policy violations, page errors. */
  readonly offences: string[] = [];

  private constructor(
    readonly context: BrowserContext,
    readonly base: string,
    readonly lang: Lang,
  ) {
    this.t = lang === 'ru' ? ru : en;
    this.format = new Format(lang);
  }

  static async arrive(browser: Browser, base: string, lang: Lang = 'en', options: BrowserContextOptions = {}): Promise<Visitor> {
    const context = await browser.newContext({ locale: LOCALES[lang], ...options });
    context.setDefaultTimeout(PATIENCE_MS);
    const visitor = new Visitor(context, base, lang);
    context.on('request', (request) => {
      if (!request.url().startsWith(`${base}/`) && !request.url().startsWith('data:')) visitor.offences.push(request.url());
    });
    context.on('console', (message) => {
      if (message.text().includes('Content Security Policy')) visitor.offences.push(message.text());
    });
    context.on('weberror', (error) => visitor.offences.push(String(error.error())));
    return visitor;
  }

  /** A tab, at the page behind `hash`. */
  async tab(hash = ''): Promise<Tab> {
    const page = await this.context.newPage();
    await page.goto(`${this.base}/${hash}`);
    return new Tab(page, this);
  }

  /** A tab of a new user, at the counter. */
  async newcomer(hash = ''): Promise<Tab & { user: string }> {
    const user = randomUUID();
    const tab = await this.tab(hash);
    await tab.page.getByLabel(this.t.people.id).fill(user);
    await tab.page.getByRole('button', { name: this.t.people.useButton }).click();
    await tab.is('live');
    return Object.assign(tab, { user });
  }

  async leave(): Promise<void> {
    await this.context.close();
    expect(this.offences).toEqual([]);
  }
}

/** What a visitor does and sees in one tab, in their language. */
export class Tab {
  constructor(
    readonly page: Page,
    readonly visitor: Visitor,
  ) {}

  get orderButton() {
    return this.page.getByRole('form', { name: this.visitor.t.order.title }).locator('.button.wide');
  }

  get topUpButton() {
    return this.page.getByRole('button', { name: this.visitor.t.deposit.title, exact: true });
  }

  async openAccount(): Promise<void> {
    await this.page.getByRole('button', { name: this.visitor.t.balance.open }).click();
    await this.shows(0);
  }

  async fillTopUp(amount: string): Promise<void> {
    await this.page.getByLabel(this.visitor.t.deposit.amount).fill(amount);
  }

  async topUp(amount: string): Promise<void> {
    await this.fillTopUp(amount);
    await this.topUpButton.click();
  }

  async fillOrder(what: string, price: string): Promise<void> {
    await this.page.getByLabel(this.visitor.t.order.what).fill(what);
    await this.page.getByLabel(this.visitor.t.order.price).fill(price);
  }

  async order(what: string, price: string): Promise<void> {
    await this.fillOrder(what, price);
    await this.orderButton.click();
  }

  /** Waits until the balance is `minor` kopecks, written as the language does. */
  async shows(minor: number): Promise<void> {
    await eventually(() => this.page.getByTestId('balance').textContent()).toBe(this.visitor.format.money(minor));
  }

  async is(connection: 'live' | 'reconnecting' | 'offline'): Promise<void> {
    await this.page.locator(`[data-connection="${connection}"]`).waitFor();
    expect(await this.page.locator('[data-connection]').textContent()).toContain(this.visitor.t.connection[connection]);
  }

  /** The row of an order in the list on the page. */
  row(what: string) {
    return this.page.locator('[data-order]', { hasText: what });
  }

  async rowIs(what: string, status: 'NEW' | 'FINISHED' | 'CANCELLED'): Promise<void> {
    await this.row(what).locator(`[data-status="${status}"]`).waitFor();
  }

  notice(text: string) {
    return this.page.getByRole('region', { name: this.visitor.t.notices.label }).getByRole('listitem').filter({ hasText: text });
  }

  async go(hash: string): Promise<void> {
    await this.page.evaluate((to) => (location.hash = to), hash);
  }
}

/** Waits for something to become so; the time limit only ends a lost cause. */
export function eventually<T>(look: () => T | Promise<T>) {
  return expect.poll(look, { timeout: PATIENCE_MS, interval: 50 });
}

/** A real WebSocket whose frames can be withheld, like a network that stalls. */
export async function stallable(tabs: BrowserContext): Promise<{ stall(): void; flow(): void }> {
  let stalled = false;
  await tabs.routeWebSocket(/\/orders\/stream/, (client: WebSocketRoute) => {
    const server = client.connectToServer();
    server.onMessage((message) => {
      if (!stalled) client.send(message);
    });
  });
  return { stall: () => void (stalled = true), flow: () => void (stalled = false) };
}
