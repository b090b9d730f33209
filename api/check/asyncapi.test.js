// The AsyncAPI document is valid, and the frozen example of each event fits its schema.
import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import { test } from 'node:test';

import { Parser } from '@asyncapi/parser';
import Ajv from 'ajv';
import addFormats from 'ajv-formats';

const api = new URL('..', import.meta.url);

async function document() {
  const text = await readFile(new URL('asyncapi.yaml', api), 'utf8');
  const { document, diagnostics } = await new Parser().parse(text);
  const errors = diagnostics.filter((diagnostic) => diagnostic.severity === 0);
  assert.deepEqual(errors.map(({ message, path }) => `${path.join('.')}: ${message}`), []);
  return document;
}

test('the document is valid AsyncAPI', async () => {
  const parsed = await document();
  const addresses = parsed.channels().all().map((channel) => channel.address());
  assert.deepEqual(addresses.sort(), [
    '/orders/stream',
    'order.changed',
    'payment.requested',
    'payment.settled',
  ]);
});

test('every frozen event fits its schema', async () => {
  const parsed = await document();
  const ajv = new Ajv({ strict: false });
  addFormats(ajv);
  const files = await readdir(new URL('events/', api));
  assert.ok(files.length >= 3, 'api/events holds an example of each event');
  for (const file of files) {
    const event = JSON.parse(await readFile(new URL(`events/${file}`, api), 'utf8'));
    const message = parsed.messages().all().find((message) => message.title() === event.type);
    assert.ok(message, `${file}: no message is called ${event.type}`);
    const valid = ajv.compile(message.payload().json());
    assert.ok(valid(event), `${file}: ${ajv.errorsText(valid.errors)}`);
  }
});
