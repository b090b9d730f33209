// The page, the live socket and what is kept, through the gateway:
//
//   node --experimental-websocket live.mjs order URL    prints the order that it placed
//   node --experimental-websocket live.mjs same URL     reads that order and compares
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';

const [action, shop, placed] = process.argv.slice(2);

async function call(method, path, user, body) {
  const headers = { 'X-User-Id': user, 'Content-Type': 'application/json' };
  const response = await fetch(shop + path, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${await response.clone().text()}`);
  return response.json();
}

/** The page, with its policy, and every file that it names. */
async function page() {
  const response = await fetch(`${shop}/`);
  assert.equal(response.status, 200);
  assert.match(response.headers.get('Content-Security-Policy'), /default-src 'none'/);
  const html = await response.text();
  const files = [...html.matchAll(/(?:src|href)="(\/?assets\/[^"]+)"/g)].map(([, file]) => file);
  assert.ok(files.length > 0, 'the page names its files');
  for (const file of files) {
    const asset = await fetch(new URL(file, `${shop}/`));
    assert.equal(asset.status, 200, file);
    assert.match(asset.headers.get('Cache-Control'), /immutable/);
  }
}

/** Frames of the user's live socket, one by one. */
async function* frames(user) {
  const socket = new WebSocket(`${shop.replace('http', 'ws')}/orders/stream?user_id=${user}`);
  const heard = [];
  let wake = () => {};
  socket.onmessage = ({ data }) => wake(heard.push(JSON.parse(data)));
  socket.onclose = ({ code }) => wake(heard.push(new Error(`the socket was closed: ${code}`)));
  try {
    for (;;) {
      while (heard.length === 0) await new Promise((resolve) => (wake = resolve));
      const frame = heard.shift();
      if (frame instanceof Error) throw frame;
      yield frame;
    }
  } finally {
    socket.close();
  }
}

/** Places an order and sees it settled on the live socket. */
async function order() {
  const user = randomUUID();
  await call('POST', '/accounts', user);
  await call('POST', '/accounts/deposit', user, { amount: 500 });
  let id;
  for await (const frame of frames(user)) {
    if (frame.type === 'snapshot') {
      assert.deepEqual(frame.orders, []);
      ({ id } = await call('POST', '/orders', user, { amount: 200, description: 'A kettle' }));
    } else if (frame.order.status === 'FINISHED') {
      assert.equal(frame.order.id, id);
      break;
    }
  }
  return { order: await call('GET', `/orders/${id}`, user), account: await call('GET', '/accounts/balance', user) };
}

const late = setTimeout(() => {
  console.error('nothing came for a minute');
  process.exit(1);
}, 60_000);
if (action === 'order') {
  await page();
  console.log(JSON.stringify(await order()));
} else {
  const { order, account } = JSON.parse(placed);
  assert.deepEqual(await call('GET', `/orders/${order.id}`, order.user_id), order);
  assert.deepEqual(await call('GET', '/accounts/balance', order.user_id), account);
}
clearTimeout(late);
