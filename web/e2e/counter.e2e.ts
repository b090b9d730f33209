import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Shop } from './shop';
import { eventually, launch, Visitor } from './visit';

let shop: Shop;
let browser: Browser;

beforeAll(async () => {
  browser = await launch();
  shop = await Shop.start();
});

afterAll(async () => {
  await browser?.close();
  await shop?.close();
});

describe.each(['en', 'ru'] as const)('the counter in %s', (lang) => {
  test('a newcomer makes up a user, opens an account, tops up and buys', async () => {
    const visitor = await Visitor.arrive(browser, shop.url, lang);
    const { t, format } = visitor;
    const tab = await visitor.tab();
    const { page } = tab;

    expect(await page.evaluate(() => document.documentElement.lang)).toBe(lang);
    await page.getByRole('heading', { name: t.people.title }).waitFor();
    await page.getByLabel(t.people.name, { exact: true }).fill('Вера');
    await page.getByRole('button', { name: t.people.createButton }).click();
    await tab.is('live');
    await page.getByRole('link', { name: 'Вера' }).waitFor();

    await page.getByText(t.balance.none).waitFor();
    await page.getByText(t.orders.empty).waitFor();
    await tab.order('Too early', '10');
    await tab.rowIs('Too early', 'CANCELLED');
    await tab.row('Too early').getByText(t.outcome.reason.no_account).waitFor();
    // Closed, so that the next outcome is not counted with this one.
    await tab.notice(t.outcome.title('CANCELLED')).getByRole('button', { name: t.notices.close }).click();

    await tab.openAccount();
    await tab.topUp(lang === 'ru' ? '1 000,50' : '1,000.50');
    await tab.shows(100_050);
    await tab.notice(t.deposit.done(format.money(100_050))).waitFor();

    await tab.order('Чай и баранки', '250.25');
    await tab.rowIs('Чай и баранки', 'FINISHED');
    await tab.shows(75_025);
    await tab.notice(t.outcome.title('FINISHED')).filter({ hasText: 'Чай и баранки' }).waitFor();

    await tab.order('A grand piano', '990000');
    await tab.rowIs('A grand piano', 'CANCELLED');
    await tab.row('A grand piano').getByText(t.outcome.reason.insufficient_funds).waitFor();
    await tab.shows(75_025);

    // Remembered: the user and, once chosen, the language.
    await page.reload();
    await tab.shows(75_025);
    await page.getByRole('link', { name: 'Вера' }).waitFor();
    await page.getByRole('button', { name: t.language.change }).click();
    await eventually(() => page.evaluate(() => document.documentElement.lang)).toBe(lang === 'ru' ? 'en' : 'ru');
    await page.reload();
    await eventually(() => page.evaluate(() => document.documentElement.lang)).toBe(lang === 'ru' ? 'en' : 'ru');
    await visitor.leave();
  });

  test('what cannot be sent is explained at its field', async () => {
    const visitor = await Visitor.arrive(browser, shop.url, lang);
    const { t } = visitor;
    const tab = await visitor.newcomer();
    await tab.openAccount();
    for (const [text, error] of [
      ['', t.amountError.empty],
      ['many', t.amountError.unreadable],
      ['1.005', t.amountError.fraction],
      ['0', t.amountError.zero],
      ['10000000000.01', t.amountError.large],
    ] as const) {
      await tab.topUp(text);
      await tab.page.getByText(error).waitFor();
    }
    await tab.orderButton.click();
    await tab.page.getByText(t.order.whatError).waitFor();
    expect((await shop.account(tab.user)).balance).toBe(0);
    expect(await shop.orders(tab.user)).toEqual([]);
    await visitor.leave();
  });

  test('a declined order is explained on its page', async () => {
    const visitor = await Visitor.arrive(browser, shop.url, lang);
    const { t } = visitor;
    const tab = await visitor.newcomer();
    await tab.openAccount();
    await tab.order('Out of reach', '5');
    await tab.notice(t.outcome.title('CANCELLED')).getByRole('link').click();
    await tab.page.getByRole('heading', { name: 'Out of reach' }).waitFor();
    await eventually(() => tab.page.getByTestId('reason').textContent()).toBe(t.outcome.reason.insufficient_funds);
    await tab.page.getByText(t.detail.placedAbout).waitFor();
    await tab.page.getByText(t.detail.took('').trim()).waitFor();
    await visitor.leave();
  });

  test('orders are filtered, paged, and their ids copied', async () => {
    const visitor = await Visitor.arrive(browser, shop.url, lang, { permissions: ['clipboard-read', 'clipboard-write'] });
    const { t, format } = visitor;
    const tab = await visitor.newcomer();
    await shop.post('/accounts', tab.user);
    await shop.post('/accounts/deposit', tab.user, { amount: 10_000 });
    for (let n = 1; n <= 24; n++) await shop.post('/orders', tab.user, { amount: n <= 22 ? 100 : 1_000_000, description: `No. ${n}.` });
    await eventually(async () => (await shop.orders(tab.user)).filter(({ status }) => status === 'NEW').length).toBe(0);

    // A page that has just come knows no more of the past than it has read.
    await tab.page.getByRole('link', { name: t.nav.orders, exact: true }).click();
    await tab.page.getByText(format.count(24, t.orders.shown)).or(tab.page.getByText(format.count(20, t.orders.shown))).waitFor();
    if (await tab.page.getByRole('button', { name: t.orders.more }).isVisible()) {
      await tab.page.getByRole('button', { name: t.orders.more }).click();
    }
    await tab.page.getByText(format.count(24, t.orders.shown)).waitFor();

    const filters = tab.page.getByRole('navigation', { name: t.orders.filter });
    await filters.getByRole('link', { name: t.status.CANCELLED, exact: true }).click();
    await tab.page.getByText(format.count(2, t.orders.shown)).waitFor();
    await filters.getByRole('link', { name: t.status.NEW, exact: true }).click();
    await tab.page.getByText(t.orders.emptyFilter).waitFor();
    await filters.getByRole('link', { name: t.status.FINISHED, exact: true }).click();
    await tab.row('No. 22.').click();
    await tab.page.getByRole('heading', { name: 'No. 22.' }).waitFor();
    await tab.page.getByRole('button', { name: t.detail.id }).click();
    const newest = (await shop.orders(tab.user)).find(({ description }) => description === 'No. 22.');
    await eventually(() => tab.page.evaluate(() => navigator.clipboard.readText())).toBe(newest?.id);
    await visitor.leave();
  });

  test('the account is a statement with a chart', async () => {
    const visitor = await Visitor.arrive(browser, shop.url, lang);
    const { t, format } = visitor;
    const tab = await visitor.newcomer('#/account');
    await tab.page.getByText(t.balance.none).waitFor();
    await shop.post('/accounts', tab.user);
    await shop.post('/accounts/deposit', tab.user, { amount: 50_000 });
    await tab.page.reload();
    await tab.shows(50_000);
    // The page is open while the order is paid: the line appears by itself.
    await shop.post('/orders', tab.user, { amount: 12_345, description: 'Lamp oil' });
    await tab.shows(37_655);
    const lines = tab.page.locator('tbody tr');
    await eventually(() => lines.count()).toBe(2);
    const cells = await lines.first().locator('td').allTextContents();
    expect(cells.map((cell) => cell.trim()).filter((_, i) => i !== 2)).toEqual([
      '2',
      t.account.payment,
      format.change(-12_345),
      format.money(37_655),
    ]);
    const chart = tab.page.getByRole('img');
    expect(await chart.getAttribute('aria-label')).toContain(format.money(50_000));
    await lines.first().getByRole('link', { name: t.account.payment }).click();
    await tab.page.getByRole('heading', { name: 'Lamp oil' }).waitFor();
    await visitor.leave();
  });
});

test('the demo users are ready with one click, and only once', async () => {
  const visitor = await Visitor.arrive(browser, shop.url, 'en');
  for (const [name, gift] of [
    ['Anna', 1_000_000],
    ['Boris', 100_000],
  ] as const) {
    const [first, second] = await Promise.all([visitor.tab('#/people'), visitor.tab('#/people')]);
    await Promise.all([first, second].map((tab) => tab.page.getByRole('button', { name }).click()));
    await first.shows(gift);
    await second.shows(gift);
  }
  await visitor.leave();
});

test("another user's order is nobody's business", async () => {
  const visitor = await Visitor.arrive(browser, shop.url, 'en');
  const owner = await visitor.newcomer();
  await shop.post('/orders', owner.user, { amount: 1, description: 'Private' });
  const [order] = await shop.orders(owner.user);
  const other = await Visitor.arrive(browser, shop.url, 'en');
  const tab = await other.newcomer(`#/orders/${order?.id}`);
  await tab.page.getByText(other.t.detail.missing).waitFor();
  await Promise.all([visitor.leave(), other.leave()]);
});
