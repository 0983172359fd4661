// What the console says of a socket that has ended, for whoever develops a page.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World, quietly } from './world.mjs';

const URI = 'wss://example.com/ws/foo?subscribe-broadcast';

/** Let a socket live, and return what the console says. */
function said(life) {
  const world = new World();
  return quietly(() => life(world.connect(), world));
}

test('a refusal is told once, however often it is repeated', () => {
  const messages = said((socket, world) => {
    for (let attempt = 0; attempt < 5; attempt += 1) {
      world.ws.finish();
      world.clock.advance(world.clock.delays[0]);
    }
  });
  assert.deepEqual(messages, [`WS4Redis: ${URI} 1006 `]);
});

for (const [code, reason] of [
  [1008, ''],
  [1009, ''],
  [1011, ''],
  [1013, 'retry-after=10'],
  [4002, ''],
  [4500, ''],
  [4501, 'banned'],
  [4711, ''],
]) {
  test(`the close code ${code} is told`, () => {
    const messages = said((socket, world) => {
      world.ws.welcome();
      world.ws.finish(code, reason);
    });
    assert.deepEqual(messages, [`WS4Redis: ${URI} ${code} ${reason}`]);
  });
}

test('another reason is told too, and the same one again after a link that lasted', () => {
  const ends = [1006, 1013, 1013, 1006];
  const messages = said((socket, world) => {
    ends.forEach((code) => {
      world.ws.finish(code);
      world.clock.advance(world.clock.delays[0]);
    });
    world.ws.welcome();
    world.clock.advance(4999);
    world.ws.finish(1013);
    world.clock.advance(world.clock.delays[0]);
    world.ws.welcome();
    world.clock.advance(5000);
    world.ws.finish(1013);
  });
  assert.deepEqual(messages.map((message) => message.match(/ (\d{4}) /)[1]),
    ['1006', '1013', '1006', '1013', '1013']);
});

test('nothing is said of what happens to everybody: a server that stops, a cut link', () => {
  for (const code of [1000, 1001, 1005, 1006, 1012]) {
    assert.deepEqual(said((socket, world) => {
      world.ws.welcome();
      world.ws.finish(code);
    }), []);
  }
});

test('nothing is said of what the page does itself', () => {
  for (const act of [
    (socket, world) => { socket.close(); world.ws.finish(); },
    (socket, world) => { world.ws.welcome(); socket.close(4501); world.ws.finish(4501); },
    (socket) => socket.reconnect(),
    (socket, world) => { world.ws.welcome(); socket.reconnect(); },
  ]) {
    assert.deepEqual(said(act), []);
  }
});

test('the console is told before the page is', () => {
  const messages = said((socket, world) => {
    socket.addEventListener('revoked', () => { console.warn('now'); socket.reconnect(); });
    world.ws.welcome();
    world.ws.finish(4501);
  });
  assert.match(messages[0], / 4501 $/);
  assert.equal(messages[1], 'now');
});

test('the legacy call says the same', () => {
  const world = new World();
  const messages = quietly(() => {
    world.legacy();
    world.ws.finish();
  });
  assert.match(messages[0], /^WS4Redis: ws:\/\/example.com\/ws\/foo 1006 /);
});
