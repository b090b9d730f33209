// Both services, called over gRPC by a client in another language.
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { openService, path } from './shop.js';

const run = promisify(execFile);
const CONTRACTS = ['gozon/orders/v1/orders.proto', 'gozon/payments/v1/payments.proto'];

test('a Python client over gRPC', async (t) => {
  const cwd = await mkdtemp(join(tmpdir(), 'gozon-grpc-'));
  t.after(() => rm(cwd, { recursive: true }));
  const python = path('.venv/bin/python');
  const out = [`--python_out=${cwd}`, `--grpc_python_out=${cwd}`];
  await run(python, ['-m', 'grpc_tools.protoc', `--proto_path=${path('proto')}`, ...out, ...CONTRACTS]);
  const [orders, payments] = await Promise.all([openService(t, 'orders'), openService(t, 'payments')]);
  const client = path('check/grpc_client.py');
  const env = { ...process.env, PYTHONPATH: cwd };
  const address = (url) => new URL(url).host;
  await run(python, ['-W', 'error', client, address(orders), address(payments)], { env }).catch((error) => {
    throw new Error(`${error.stdout}${error.stderr}`);
  });
});
