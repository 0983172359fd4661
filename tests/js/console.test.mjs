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
  assert.deepEqual(messages, [
    `WS4Redis: the socket ${URI} ended with 1006: it was refused, and the server has logged why, or `
    + 'there is no server; the browser shows a refusal as the status 403. It tries again in 2 s. '
    + 'See https://channels-ws4redis.readthedocs.io/en/latest/troubleshooting.html',
  ]);
});

for (const [code, reason, expected] of [
  [1008, '', 'ended with 1008: the server sent it away. It stays away. '],
  [1009, '', 'ended with 1009: a message of the page was too large. It tries again in 2 s. '],
  [1011, '', 'ended with 1011: the server failed. '],
  [1013, 'retry-after=10', 'ended with 1013 (retry-after=10): the server has too much to do, or no '
    + 'Redis, or it exceeds a limit; the server has logged which. It tries again in 15 s. '],
  [4002, '', 'ended with 4002: the page read too slowly. '],
  [4500, '', 'ended with 4500: the server did not understand this client. It stays away. '],
  [4501, 'banned', 'ended with 4501 (banned): it may not hear any more what it has heard. It stays '],
  [4711, '', 'ended with 4711: it may not hear any more what it has heard. It stays away. '],
]) {
  test(`the close code ${code} is explained`, () => {
    const messages = said((socket, world) => {
      world.ws.welcome();
      world.ws.finish(code, reason);
    });
    assert.equal(messages.length, 1);
    assert.ok(messages[0].startsWith(`WS4Redis: the socket ${URI} ${expected}`), messages[0]);
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
  assert.deepEqual(messages.map((message) => message.match(/with (\d+)/)[1]),
    ['1006', '1013', '1006', '1013', '1013']);
});

test('nothing is said of what happens to everybody: a server that stops, a cut link', () => {
  for (const code of [1000, 1001, 1006, 1012, 4000]) {
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
  assert.match(messages[0], /It stays away\./);
  assert.equal(messages[1], 'now');
});

test('the legacy call says the same', () => {
  const world = new World();
  const messages = quietly(() => {
    world.legacy();
    world.ws.finish();
  });
  assert.match(messages[0], /^WS4Redis: the socket ws:\/\/example.com\/ws\/foo ended with 1006: /);
});
