import { describe, expect, test } from 'vitest';
import { Refusal } from './client';
import { Outbox, type Ending, type Pending } from './outbox';

type Reply = string | Error;

/** A shop that answers from a script, and a clock that never runs by itself. */
function scripted(replies: Reply[], kept = new Map<string, string>()) {
  const sent: { key: string; kind: string }[] = [];
  const pauses: { ms: number; firm: boolean }[] = [];
  const endings: Ending<string>[] = [];
  const shown: Pending[][] = [];
  const clock = { now: 1_000_000 };
  const world = {
    send: ({ key, kind }: Pending) => {
      sent.push({ key, kind });
      const reply = replies.shift();
      if (reply === undefined) return new Promise<string>(() => undefined);
      return typeof reply === 'string' ? Promise.resolve(reply) : Promise.reject(reply);
    },
    changed: (pending: Pending[]) => shown.push([...pending]),
    ended: (_: Pending, ending: Ending<string>) => endings.push(ending),
    storage: {
      getItem: (key: string) => kept.get(key) ?? null,
      setItem: (key: string, value: string) => void kept.set(key, value),
      removeItem: (key: string) => void kept.delete(key),
    },
    now: () => clock.now,
    random: () => 0.5,
    pause: (ms: number, firm: boolean) => {
      pauses.push({ ms, firm });
      return Promise.resolve();
    },
  };
  return { outbox: new Outbox<string>('slot', world), sent, pauses, endings, shown, kept, clock };
}

const order = { kind: 'order', body: { amount: 100, description: 'tea' } } as const;
const settle = () => new Promise((resolve) => setTimeout(resolve));

describe('an action', () => {
  test('keeps its key through network errors and 5xx', async () => {
    const { outbox, sent, endings } = scripted([
      new TypeError('network'),
      new Refusal(502, 'bad_gateway'),
      new Refusal(503, 'unavailable'),
      new Refusal(504, 'timeout'),
      'placed',
    ]);
    expect(await outbox.submit(order, 'k')).toEqual({ outcome: 'done', value: 'placed' });
    expect(sent.map(({ key }) => key)).toEqual(['k', 'k', 'k', 'k', 'k']);
    expect(endings).toHaveLength(1);
  });

  test('waits as long as a 429 asks, and no sooner', async () => {
    const { outbox, pauses } = scripted([new Refusal(429, 'rate_limited', 7_000), 'placed']);
    await outbox.submit(order, 'k');
    expect(pauses).toEqual([{ ms: 7_000, firm: true }]);
  });

  test('waits longer each time, and may be woken', async () => {
    const { outbox, pauses } = scripted([new TypeError(), new TypeError(), new TypeError(), 'placed']);
    await outbox.submit(order, 'k');
    expect(pauses.map(({ ms }) => ms)).toEqual([300, 600, 1200]);
    expect(pauses.every(({ firm }) => !firm)).toBe(true);
  });

  test.each([400, 404, 409, 422])('ends with a definite refusal: %i', async (status) => {
    const { outbox, sent, kept } = scripted([new Refusal(status, 'no')]);
    const ending = await outbox.submit(order, 'k');
    expect(ending.outcome).toBe('refused');
    expect(sent).toHaveLength(1);
    expect(kept.size).toBe(0);
  });

  test('is kept while it has no answer and resumed with its key', async () => {
    const first = scripted([]);
    void first.outbox.submit(order, 'k');
    expect(first.kept.get('slot')).toContain('"k"');

    const second = scripted(['placed'], first.kept);
    second.outbox.resume();
    await settle();
    expect(second.sent).toEqual([{ key: 'k', kind: 'order' }]);
    expect(second.endings).toEqual([{ outcome: 'done', value: 'placed' }]);
    expect(second.kept.size).toBe(0);
  });

  test('is not sent again after the shop may have forgotten its key', async () => {
    const first = scripted([]);
    void first.outbox.submit(order, 'k');
    const second = scripted(['placed'], first.kept);
    second.clock.now += 24 * 60 * 60 * 1000;
    second.outbox.resume();
    await settle();
    expect(second.sent).toEqual([]);
    expect(second.endings).toEqual([{ outcome: 'abandoned' }]);
  });

  test('can be abandoned', () => {
    const { outbox, endings, shown, kept } = scripted([]);
    void outbox.submit(order, 'k');
    outbox.abandon('k');
    expect(endings).toEqual([{ outcome: 'abandoned' }]);
    expect(shown.at(-1)).toEqual([]);
    expect(kept.size).toBe(0);
  });
});

test('a closed outbox leaves its answers to the next life', async () => {
  const first = scripted(['placed']);
  void first.outbox.submit(order, 'k');
  first.outbox.close();
  await settle();
  expect(first.endings).toEqual([]);
  expect(first.kept.get('slot')).toContain('"k"');
});

test('a broken memory is no memory', () => {
  for (const text of ['{', '"x"', 'null', '{}']) {
    const { outbox, shown } = scripted([], new Map([['slot', text]]));
    outbox.resume();
    expect(shown).toEqual([[]]);
  }
});
