import type { components, paths } from './schema.gen';

export type Account = components['schemas']['Account'];
export type Entry = components['schemas']['Entry'];
export type Order = components['schemas']['Order'];
export type NewOrder = components['schemas']['NewOrder'];
export type Deposit = components['schemas']['Deposit'];
export type Problem = components['schemas']['Problem'];
export type OrderStatus = Order['status'];
export type CancelReason = NonNullable<Order['cancel_reason']>;

/** One page of a list; `next_cursor` leads to the following one. */
export interface Page<T> {
  items: T[];
  next_cursor?: string | null;
}

/** The shop answered, and the answer is an error. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    /** The machine-readable reason, `unknown` where the answer had none. */
    readonly code: string,
    /** How long the shop asked us to wait, in milliseconds. */
    readonly retryAfter: number | null = null,
  ) {
    super(`${status} ${code}`);
  }
}

/** Every operation of the API by method and path, as `api/openapi.json` has it. */
type Paths = {
  [M in 'get' | 'post']: {
    [P in keyof paths as paths[P] extends Record<M, { responses: unknown }> ? P : never]: paths[P] extends Record<M, infer O> ? O : never;
  };
};
type Json<T> = T extends { content: { 'application/json': infer B } } ? B : never;
type Success<O> = O extends { responses: infer R } ? Json<R[keyof R & (200 | 201)]> : never;
type Body<O> = O extends { requestBody: { content: { 'application/json': infer B } } } ? B : undefined;
type Query<O> = O extends { parameters: { query?: infer Q } } ? Q : undefined;

interface Options<O> {
  body?: Body<O>;
  query?: Query<O>;
  /** Values for the `{placeholders}` of the path. */
  path?: Record<string, string>;
  key?: string;
  signal?: AbortSignal;
}

const PATIENCE_MS = 15_000;

/** The shop's REST API, spoken for one user. */
export class Client {
  constructor(private readonly user: string) {}

  openAccount(key: string): Promise<Account> {
    return this.call('post', '/accounts', { key });
  }

  deposit(body: Deposit, key: string): Promise<Account> {
    return this.call('post', '/accounts/deposit', { body, key });
  }

  placeOrder(body: NewOrder, key: string): Promise<Order> {
    return this.call('post', '/orders', { body, key });
  }

  balance(): Promise<Account> {
    return this.call('get', '/accounts/balance');
  }

  entries(limit: number, cursor?: string): Promise<Page<Entry>> {
    return this.call('get', '/accounts/entries', { query: { limit, cursor } });
  }

  orders(limit: number, cursor?: string, status?: OrderStatus): Promise<Page<Order>> {
    return this.call('get', '/orders', { query: { limit, cursor, status } });
  }

  order(id: string): Promise<Order> {
    return this.call('get', '/orders/{id}', { path: { id } });
  }

  /** Resolves with a success, throws a `Refusal`, or whatever `fetch` throws. */
  private async call<M extends keyof Paths, P extends keyof Paths[M] & string>(
    method: M,
    path: P,
    { body, query, path: values = {}, key, signal }: Options<Paths[M][P]> = {},
  ): Promise<Success<Paths[M][P]>> {
    const headers = new Headers({ 'X-User-Id': this.user, Accept: 'application/json' });
    if (key) headers.set('Idempotency-Key', key);
    if (body !== undefined) headers.set('Content-Type', 'application/json');
    const response = await fetch(locate(path, values, query ?? {}), {
      method: method.toUpperCase(),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ?? AbortSignal.timeout(PATIENCE_MS),
      cache: 'no-store',
    });
    if (!response.ok) throw await refusal(response);
    return (await response.json()) as Success<Paths[M][P]>;
  }
}

function locate(path: string, values: Record<string, string>, query: object): string {
  const filled = path.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(values[name] ?? ''));
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null) search.set(name, String(value));
  }
  return search.size > 0 ? `${filled}?${search}` : filled;
}

async function refusal(response: Response): Promise<Refusal> {
  let code = 'unknown';
  try {
    code = ((await response.json()) as Problem).code;
  } catch {
    // A proxy's page instead of a problem document: the status says enough.
  }
  return new Refusal(response.status, code, seconds(response.headers.get('Retry-After')));
}

function seconds(header: string | null): number | null {
  return header !== null && /^\d{1,5}$/.test(header) ? Number(header) * 1000 : null;
}
