import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World, quietly } from './world.mjs';

function published(ws) {
  return ws.frames.filter(({ type }) => type === 'publish').map(({ data }) => data);
}

test('text goes out as it is, bytes go out as Base64', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome();
  const bytes = new Uint8Array([7, 255, 0, 7]);
  assert.equal(socket.send('hello'), true);
  assert.equal(socket.send(bytes.subarray(1, 3)), true);
  assert.equal(socket.send(bytes.buffer), true);
  assert.equal(socket.sendJSON({ text: 'é' }), true);
  assert.deepEqual(world.ws.frames.slice(1), [
    { type: 'publish', data: 'hello' },
    { type: 'publish', base64: '/wA=' },
    { type: 'publish', base64: 'B/8ABw==' },
    { type: 'publish', data: '{"text":"é"}' },
  ]);
});

test('sending is refused unless the socket is open', () => {
  const world = new World();
  const socket = world.connect();
  assert.equal(socket.send('connecting'), false);
  world.ws.accept();
  assert.equal(socket.send('before the welcome'), false);
  world.ws.receive({ type: 'welcome', channels: {} });
  assert.equal(socket.send('open'), true);
  world.ws.readyState = 2;
  assert.equal(socket.send('closing'), false);
  world.ws.finish();
  assert.equal(socket.send('waiting'), false);
  socket.close();
  assert.equal(socket.send('closed'), false);
  assert.deepEqual(published(world.sockets[0]), ['open']);
});

test('sending is queued up to a bound and sent in order, before what a listener sends', () => {
  const world = new World();
  const socket = world.connect({ offline: 'queue', queueLimit: 2 });
  socket.addEventListener('open', () => socket.send('from a listener'));
  assert.deepEqual(['1', '2', '3'].map((data) => socket.send(data)), [true, true, false]);
  world.ws.welcome();
  assert.deepEqual(published(world.ws), ['1', '2', 'from a listener']);
  world.ws.finish();
  assert.equal(socket.send('4'), true);
  world.clock.advance(30000);
  world.ws.welcome();
  assert.deepEqual(published(world.ws), ['4', 'from a listener']);
});

test('the queue holds 100 messages unless told otherwise, and none is an allowed bound', () => {
  const world = new World();
  const socket = world.connect({ offline: 'queue' });
  const accepted = Array.from({ length: 150 }, () => socket.send('x')).filter(Boolean);
  assert.equal(accepted.length, 100);
  assert.equal(world.connect({ offline: 'queue', queueLimit: 0 }).send('x'), false);
});

test('the queue ends with the socket', () => {
  const world = new World();
  const socket = world.connect({ offline: 'queue' });
  socket.send('x');
  world.ws.finish(4500);
  assert.equal(socket.send('y'), false);
  socket.open();
  world.ws.welcome();
  assert.deepEqual(published(world.ws), []);
});

test('received JSON is parsed on demand', () => {
  const world = new World();
  world.connect();
  world.ws.welcome();
  world.ws.receive({ type: 'message', channel: 'user', epoch: 'a', offset: 1, data: '{"a":[1]}' });
  world.ws.receive({ type: 'message', channel: 'user', epoch: 'a', offset: 2, data: 'hello' });
  const [first, second] = world.details('message');
  assert.deepEqual(first.json, { a: [1] });
  assert.throws(() => second.json, SyntaxError);
  assert.deepEqual({ ...second }, { channel: 'user', data: 'hello', epoch: 'a', offset: 2 });
});

test('a binary payload arrives as bytes', () => {
  const world = new World();
  world.connect();
  world.ws.welcome();
  world.ws.receive({ type: 'message', channel: 'user', epoch: 'a', offset: 1, base64: '/wD+' });
  assert.deepEqual(world.details('message')[0].data, new Uint8Array([255, 0, 254]));
});

test('frames that make no sense are ignored', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome();
  quietly(() => {
    for (const frame of ['', 'no json', '[', 'null', '7', '[]', '"x"', '{}', '{"type":"news"}']) {
      world.ws.receive(frame);
    }
    world.ws.onmessage({ data: new ArrayBuffer(2) });
  });
  assert.equal(socket.state, 'open');
  assert.deepEqual(world.log.length, 2);
});
