/** A balance and since when it held. */
export interface Point {
  /** Milliseconds since the epoch. */
  at: number;
  /** Kopecks. */
  balance: number;
}

export interface Spot extends Point {
  x: number;
  y: number;
}

/** A step chart in pixels: a balance holds until the next change. */
export interface Plot {
  /** SVG path of the balance. */
  line: string;
  /** The same, closed along the bottom. */
  area: string;
  spots: Spot[];
  ticks: { y: number; value: number }[];
}

const TOP = 18;
const BOTTOM = 4;
const SIDE = 4;

/** Draws `points`, oldest first and at least one, into a box of pixels. */
export function plot(points: Point[], width: number, height: number): Plot {
  const first = points[0]?.at ?? 0;
  const span = (points.at(-1)?.at ?? 0) - first;
  const ticks = tickValues(Math.max(...points.map((point) => point.balance)));
  const top = ticks.at(-1) ?? 1;
  const y = (value: number) => round(height - BOTTOM - (value / top) * (height - TOP - BOTTOM));
  const x = (at: number) => round(SIDE + (span === 0 ? 0 : (at - first) / span) * (width - 2 * SIDE));
  const spots = points.map((point) => ({ ...point, x: x(point.at), y: y(point.balance) }));
  const steps = spots.map((spot, i) => (i === 0 ? `M${spot.x} ${spot.y}` : `H${spot.x}V${spot.y}`)).join('');
  const line = span === 0 ? `M${SIDE} ${spots.at(-1)?.y ?? 0}H${width - SIDE}` : steps;
  return {
    line,
    area: `${line}V${y(0)}H${SIDE}Z`,
    spots,
    ticks: ticks.map((value) => ({ y: y(value), value })),
  };
}

/** Round values from 0 up to the first that holds `high`, in whole rubles. */
export function tickValues(high: number): number[] {
  const rough = Math.max(high, 100) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(100, [1, 2, 2.5, 5, 10].map((by) => by * power).find((by) => by >= rough) ?? rough);
  const count = Math.max(1, Math.ceil(high / step));
  return Array.from({ length: count + 1 }, (_, i) => Math.round(i * step));
}

/** The spot whose balance held at pixel `x`. */
export function spotAt(spots: Spot[], x: number): Spot | undefined {
  return spots.findLast((spot) => spot.x <= x) ?? spots[0];
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
