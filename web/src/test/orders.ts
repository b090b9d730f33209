import type { Order } from '../api/client';

/** An order to test with: the `n`th of the day, changed as told. */
export function order(n: number, change: Partial<Order> = {}): Order {
  const at = new Date(Date.UTC(2026, 0, 1, 0, 0, n)).toISOString();
  return {
    id: `00000000-0000-7000-8000-${String(n).padStart(12, '0')}`,
    user_id: '0a11a000-0000-4000-8000-000000000001',
    amount: 100,
    description: `order ${n}`,
    status: 'NEW',
    version: 1,
    created_at: at,
    updated_at: at,
    ...change,
  };
}

/** The same order, paid. */
export function paid(n: number): Order {
  return order(n, { status: 'FINISHED', version: 2 });
}
