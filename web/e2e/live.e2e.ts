import type { Browser, Route } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Shop } from './shop';
import { eventually, launch, stallable, Visitor } from './visit';

let shop: Shop;
let browser: Browser;

beforeAll(async () => {
  browser = await launch();
  shop = await Shop.start();
});

beforeEach(async () => {
  if (!(await fetch(`${shop.url}/livez`).catch(() => null))) await shop.up();
});

afterAll(async () => {
  await browser?.close();
  await shop?.close();
});

const isPost = (route: Route) => route.request().method() === 'POST';

describe('two tabs', () => {
  test('a top-up and an order at once, both tabs live', async () => {
    const visitor = await Visitor.arrive(browser, shop.url);
    const first = await visitor.newcomer();
    await first.openAccount();
    await first.topUp('100');
    await first.shows(10_000);
    const second = await visitor.tab();
    await second.shows(10_000);
    await second.is('live');

    await first.fillTopUp('50');
    await second.fillOrder('Two teas', '30');
    await Promise.all([first.topUpButton.click(), second.orderButton.click()]);
    for (const tab of [first, second]) {
      await tab.rowIs('Two teas', 'FINISHED');
      await tab.shows(12_000);
      await tab.notice('Two teas').waitFor();
    }
    await visitor.leave();
  });

  test('a top-up alone shows in the other tab, too', async () => {
    const visitor = await Visitor.arrive(browser, shop.url);
    const first = await visitor.newcomer();
    const second = await visitor.tab();
    await second.is('live');
    await first.openAccount();
    await second.shows(0);
    await second.topUp('70');
    await first.shows(7_000);
    await visitor.leave();
  });

  test('two browsers of one user see the same', async () => {
    const here = await Visitor.arrive(browser, shop.url, 'en');
    const there = await Visitor.arrive(browser, shop.url, 'ru');
    const first = await here.newcomer();
    await first.openAccount();
    await first.topUp('10');
    await first.shows(1_000);
    const second = await there.tab();
    await second.page.getByLabel(there.t.people.id).fill(first.user);
    await second.page.getByRole('button', { name: there.t.people.useButton }).click();
    await second.is('live');
    await first.order('Shared tea', '4');
    await second.rowIs('Shared tea', 'FINISHED');
    await second.notice(there.t.outcome.title('FINISHED')).waitFor();
    await second.shows(600);
    await Promise.all([here.leave(), there.leave()]);
  });
});

describe('once', () => {
  test('a double click makes one order and one top-up', async () => {
    const visitor = await Visitor.arrive(browser, shop.url);
    const tab = await visitor.newcomer();
    await tab.openAccount();
    await tab.fillTopUp('100');
    await tab.topUpButton.dblclick();
    await tab.shows(10_000);
    await tab.fillOrder('Single tea', '30');
    await tab.orderButton.dblclick();
    await tab.rowIs('Single tea', 'FINISHED');
    await tab.shows(7_000);
    expect(await shop.orders(tab.user)).toHaveLength(1);
    expect(await tab.page.locator('[aria-invalid="true"]').count()).toBe(0);
    await visitor.leave();
  });

  test('so do impatient clicks while the answer is on its way', async () => {
    const visitor = await Visitor.arrive(browser, shop.url);
    const tab = await visitor.newcomer();
    await tab.openAccount();
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => (release = resolve));
    await tab.page.route('**/orders', async (route) => {
      if (isPost(route)) await held;
      await route.continue();
    });
    await tab.fillOrder('Slow tea', '30');
    for (let click = 0; click < 4; click++) await tab.orderButton.click();
    expect(await tab.orderButton.getAttribute('aria-busy')).toBe('true');
    release();
    await tab.rowIs('Slow tea', 'CANCELLED');
    expect(await shop.orders(tab.user)).toHaveLength(1);
    await visitor.leave();
  });

  test('an answer lost with the connection is asked for again, with the same key', async () => {
    const visitor = await Visitor.arrive(browser, shop.url);
    const tab = await visitor.newcomer();
    await tab.openAccount();
    const keys: (string | undefined)[] = [];
    await tab.page.route('**/accounts/deposit', async (route) => {
      keys.push(route.request().headers()['idempotency-key']);
      const response = await route.fetch();
      if (keys.length === 1) await route.abort('connectionreset');
      else if (keys.length === 2) await route.fulfill({ status: 503, body: '' });
      else await route.fulfill({ response });
    });
    await tab.topUp('100');
    await tab.notice(visitor.t.deposit.done(visitor.format.money(10_000))).waitFor();
    await tab.shows(10_000);
    expect(keys).toHaveLength(3);
    expect(new Set(keys).size).toBe(1);
    expect((await shop.account(tab.user)).balance).toBe(10_000);
    await visitor.leave();
  });

  test('an order without an answer survives a reload and is not doubled', async () => {
    const visitor = await Visitor.arrive(browser, shop.url);
    const tab = await visitor.newcomer();
    await tab.openAccount();
    await tab.topUp('100');
    await tab.shows(10_000);
    // The shop hears it, the page never learns that it did.
    await tab.page.route('**/orders', async (route) => {
      if (!isPost(route)) return route.continue();
      await route.fetch();
      await route.abort('connectionreset');
    });
    await tab.order('Stubborn tea', '30');
    await tab.page.getByText(visitor.t.pending.slow).waitFor();
    await tab.page.unrouteAll({ behavior: 'ignoreErrors' });
    await tab.page.reload();
    await tab.rowIs('Stubborn tea', 'FINISHED');
    await tab.shows(7_000);
    await eventually(() => tab.page.evaluate(() => Object.keys(sessionStorage).filter((key) => key.startsWith('gozon.pending')))).toEqual([]);
    expect(await shop.orders(tab.user)).toHaveLength(1);
    await visitor.leave();
  });
});

test('a late word of no account does not hide the one just opened', async () => {
  const visitor = await Visitor.arrive(browser, shop.url);
  const tab = await visitor.newcomer();
  await tab.page.getByText(visitor.t.balance.none).waitFor();
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const statuses: number[] = [];
  let arrived = 0;
  await tab.page.route('**/accounts/balance', async (route) => {
    const response = await route.fetch();
    statuses.push(response.status());
    await held;
    await route.fulfill({ response });
    arrived += 1;
  });
  await tab.page.evaluate(() => dispatchEvent(new Event('focus')));
  await eventually(() => statuses).toEqual([404]);
  await tab.openAccount();
  release();
  await eventually(() => arrived).toBe(1);
  await tab.topUp('1');
  await tab.shows(100);
  await visitor.leave();
});

describe('outages', () => {
  test('killed in mid-order: the outcome is announced after the restart', async () => {
    const visitor = await Visitor.arrive(browser, shop.url);
    const network = await stallable(visitor.context);
    const tab = await visitor.newcomer();
    await tab.openAccount();
    await tab.topUp('100');
    await tab.shows(10_000);

    // The shop dies right after it accepted the order, before the page even knows that.
    await tab.page.route('**/orders', async (route) => {
      if (!isPost(route)) return route.continue();
      const response = await route.fetch();
      await shop.kill();
      await route.fulfill({ response });
    });
    network.stall();
    await tab.order('Midnight tea', '30');
    await tab.rowIs('Midnight tea', 'NEW');
    await tab.is('reconnecting');
    expect(await tab.notice('Midnight tea').count()).toBe(0);

    network.flow();
    await shop.up();
    await tab.notice('Midnight tea').filter({ hasText: visitor.t.outcome.title('FINISHED') }).waitFor();
    await tab.is('live');
    await tab.rowIs('Midnight tea', 'FINISHED');
    await tab.shows(7_000);
    expect(await shop.orders(tab.user)).toHaveLength(1);
    await visitor.leave();
  });

  test('an order and a top-up made while the shop is away happen once it is back', async () => {
    const visitor = await Visitor.arrive(browser, shop.url, 'ru');
    const tab = await visitor.newcomer();
    await tab.openAccount();
    await tab.topUp('100');
    await tab.shows(10_000);
    await shop.kill();
    await tab.is('reconnecting');
    await tab.order('Чай после бури', '30');
    await tab.topUp('5');
    await eventually(() => tab.page.getByText(visitor.t.pending.slow).count()).toBe(2);
    await shop.up();
    await tab.notice('Чай после бури').filter({ hasText: 'Заказ оплачен' }).waitFor();
    await tab.shows(7_500);
    expect(await tab.page.getByText(visitor.t.pending.slow).count()).toBe(0);
    expect(await shop.orders(tab.user)).toHaveLength(1);
    await visitor.leave();
  });

  test('an outcome from while the tab was closed to the world is told, others are not', async () => {
    const visitor = await Visitor.arrive(browser, shop.url);
    const tab = await visitor.newcomer();
    await shop.post('/accounts', tab.user);
    await shop.post('/accounts/deposit', tab.user, { amount: 10_000 });
    await visitor.context.setOffline(true);
    await tab.is('offline');
    await shop.post('/orders', tab.user, { amount: 500, description: 'Tea by phone' });
    await visitor.context.setOffline(false);
    await tab.is('live');
    await tab.notice('Tea by phone').waitFor();
    await tab.shows(9_500);
    // History is not news: a fresh page is quiet.
    const fresh = await visitor.tab();
    await fresh.rowIs('Tea by phone', 'FINISHED');
    expect(await fresh.notice('Tea by phone').count()).toBe(0);
    await visitor.leave();
  });
});

test('a page in the background rings', async () => {
  const visitor = await Visitor.arrive(browser, shop.url, 'ru', { permissions: ['notifications'] });
  await visitor.context.addInitScript(() => {
    const rung: string[] = [];
    const Real = window.Notification;
    class Recorded extends Real {
      constructor(title: string, options?: NotificationOptions) {
        super(title, options);
        rung.push(`${title}: ${options?.body}`);
      }
    }
    Object.assign(window, { Notification: Recorded, rung });
  });
  const tab = await visitor.newcomer();
  const rung = () => tab.page.evaluate(() => (window as unknown as { rung: string[] }).rung);
  await tab.openAccount();
  await tab.order('Тихий чай', '30');
  await tab.rowIs('Тихий чай', 'CANCELLED');
  expect(await rung()).toEqual([]);
  await tab.page.evaluate(() => Object.defineProperty(document, 'hidden', { get: () => true }));
  await shop.post('/orders', tab.user, { amount: 500, description: 'Громкий чай' });
  await eventually(rung).toEqual([`Заказ отменён: Громкий чай · ${visitor.format.money(500)}. ${visitor.t.outcome.reason.insufficient_funds}`]);
  await visitor.leave();
});
