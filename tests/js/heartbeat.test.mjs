import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World } from './world.mjs';

test('a ping of the server is answered', () => {
  const world = new World();
  world.connect();
  world.ws.welcome();
  world.ws.receive({ type: 'ping' });
  assert.deepEqual(world.ws.frames.at(-1), { type: 'pong' });
});

test('the client pings a server that is silent for a quarter longer than it promised', () => {
  const world = new World();
  world.connect();
  world.ws.welcome({}, 4);
  world.clock.advance(4999);
  assert.equal(world.ws.frames.length, 1);
  world.clock.advance(1);
  assert.deepEqual(world.ws.frames.at(-1), { type: 'ping' });
});

test('any frame puts the ping off', () => {
  const world = new World();
  world.connect();
  world.ws.welcome({}, 4);
  for (const type of ['ping', 'message', 'something new']) {
    world.clock.advance(4999);
    world.ws.receive({ type, channel: 'user', data: '' });
  }
  world.clock.advance(4999);
  assert.equal(world.ws.frames.filter(({ type }) => type === 'ping').length, 0);
});

test('a server that answers the ping keeps the link', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome({}, 4);
  for (let times = 0; times < 10; times += 1) {
    world.clock.advance(5000);
    world.ws.receive({ type: 'pong' });
  }
  assert.equal(socket.state, 'open');
  assert.equal(world.ws.frames.filter(({ type }) => type === 'ping').length, 10);
});

test('a server that does not answer the ping within 5 s is taken for dead', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome({}, 4);
  world.clock.advance(9999);
  assert.equal(socket.state, 'open');
  world.clock.advance(1);
  assert.equal(socket.state, 'waiting');
  assert.equal(world.ws.readyState, 2);
  assert.deepEqual(world.details('close'), [{ code: 1006, reason: 'No answer', delay: 1250 }]);
});

test('an answer to a probe brings the ordinary rhythm back', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome({}, 60);
  world.show();
  world.clock.advance(4000);
  world.ws.receive({ type: 'pong' });
  world.clock.advance(74999);
  assert.equal(socket.state, 'open');
  assert.equal(world.ws.frames.filter(({ type }) => type === 'ping').length, 1);
});

test('no heartbeat is left over when the link is gone', () => {
  const world = new World();
  world.connect();
  world.ws.welcome();
  world.ws.finish();
  assert.deepEqual(world.clock.delays, [1250]);
});
