/** Where the visitor is. Paths live behind `#`, so any static server will do. */
export type Route =
  | { page: 'counter' }
  | { page: 'orders'; status: string | null }
  | { page: 'order'; id: string }
  | { page: 'account' }
  | { page: 'people' }
  | { page: 'lost' };

export function parse(hash: string): Route {
  const [path = '', search = ''] = hash.replace(/^#\/?/, '').split('?');
  const parts = path.split('/').filter((part) => part !== '');
  const [first, second] = parts;
  if (parts.length === 0) return { page: 'counter' };
  if (parts.length === 2 && first === 'orders' && second) return { page: 'order', id: second };
  if (parts.length > 1) return { page: 'lost' };
  switch (first) {
    case 'orders':
      return { page: 'orders', status: new URLSearchParams(search).get('status') };
    case 'account':
      return { page: 'account' };
    case 'people':
      return { page: 'people' };
    default:
      return { page: 'lost' };
  }
}

export const href = {
  counter: '#/',
  orders: '#/orders',
  account: '#/account',
  people: '#/people',
  ordersBy: (status: string | null) => (status ? `#/orders?status=${status}` : '#/orders'),
  order: (id: string) => `#/orders/${id}`,
};

class Router {
  route: Route = $state.raw({ page: 'counter' });

  start(): void {
    const follow = () => {
      this.route = parse(location.hash);
    };
    addEventListener('hashchange', follow);
    follow();
  }

  go(to: string): void {
    location.hash = to;
  }
}

export const router = new Router();
