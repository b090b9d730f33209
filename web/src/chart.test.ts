import { expect, test } from 'vitest';
import { plot, spotAt, tickValues } from './chart';

test.each([
  [0, [0, 100]],
  [100, [0, 100]],
  [1_000_000, [0, 500_000, 1_000_000]],
  [1_250_000, [0, 500_000, 1_000_000, 1_500_000]],
  [226_950, [0, 100_000, 200_000, 300_000]],
])('ticks up to %i kopecks', (high, ticks) => {
  expect(tickValues(high)).toEqual(ticks);
});

test('ticks of any balance are few, even and hold it', () => {
  for (let high = 1; high <= Number.MAX_SAFE_INTEGER; high *= 3.7) {
    const ticks = tickValues(high);
    expect(ticks.length).toBeLessThanOrEqual(5);
    expect(ticks.at(-1)).toBeGreaterThanOrEqual(Math.floor(high));
  }
});

test('a balance holds until the next change: steps, not slopes', () => {
  const { line } = plot(
    [
      { at: 0, balance: 0 },
      { at: 50, balance: 10_000 },
      { at: 100, balance: 5_000 },
    ],
    108,
    122,
  );
  expect(line).toMatch(/^M4 118(H\S+V\S+){2}$/);
  expect(line.startsWith('M4 118H54V')).toBe(true);
});

test('one point is a level line across', () => {
  const { line, spots } = plot([{ at: 7, balance: 100 }], 100, 100);
  expect(line).toBe('M4 18H96');
  expect(spots).toHaveLength(1);
});

test('the pointed spot is the one whose balance held', () => {
  const { spots } = plot([0, 50, 100].map((at) => ({ at, balance: at })), 108, 100);
  expect(spotAt(spots, 60)?.at).toBe(50);
  expect(spotAt(spots, -5)?.at).toBe(0);
  expect(spotAt(spots, 500)?.at).toBe(100);
});
