const FIRST_MS = 400;
const LONGEST_MS = 15_000;

/**
 * How long to wait before try number `attempt` (from 0): exponential, with
 * jitter over the upper half, so that a restarted shop isn't met by everybody
 * at once and nobody hammers it either.
 */
export function backoff(attempt: number, random: () => number): number {
  const ceiling = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 16));
  return ceiling / 2 + (random() * ceiling) / 2;
}
