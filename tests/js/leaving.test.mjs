// A page that is being left, and one that comes back.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World } from './world.mjs';

function opened() {
  const world = new World();
  const socket = world.connect({ positions: { broadcast: { epoch: 'a', offset: 1 } } });
  world.ws.welcome();
  world.log.length = 0;
  return { world, socket, happen: (type) => world.window.dispatchEvent(new Event(type)) };
}

test('the end of a link is not told while the page is being left', () => {
  const { world, socket, happen } = opened();
  happen('beforeunload');
  world.ws.finish(1001);
  assert.deepEqual([socket.state, world.log], ['open', []]);
  assert.equal(socket.send('late'), false);
  happen('pagehide');
  world.clock.advance(4000);
  assert.deepEqual([socket.state, world.log], ['open', []]);
  assert.equal(world.sockets.length, 1);
});

test('a page that stays after all is told of the end, and comes back', () => {
  const { world, socket, happen } = opened();
  happen('beforeunload');
  world.ws.finish(1001, 'bye');
  world.clock.advance(5000);
  assert.deepEqual(world.details('close'), [{ code: 1001, reason: 'bye', delay: 1250 }]);
  world.clock.advance(1250);
  world.ws.welcome();
  assert.equal(socket.state, 'open');
});

test('a download that looks like leaving changes nothing', () => {
  const { world, happen } = opened();
  happen('beforeunload');
  world.clock.advance(4000);
  assert.equal(world.ws.readyState, 1);
  world.clock.advance(1000);
  world.ws.finish(1001);
  assert.equal(world.details('close').length, 1);
});

test('a page that goes to sleep closes its link, and comes back at once with its positions', () => {
  const { world, socket, happen } = opened();
  happen('pagehide');
  assert.equal(world.ws.readyState, 2);
  assert.deepEqual([socket.state, world.log], ['open', []]);
  happen('pageshow');
  assert.equal(socket.state, 'connecting');
  world.ws.accept();
  const positions = { broadcast: { epoch: 'a', offset: 1 } };
  assert.deepEqual(world.ws.frames, [{ type: 'hello', positions }]);
});

test('a page that waits for its next attempt does not wait on while it sleeps', () => {
  const { world, socket, happen } = opened();
  world.ws.finish();
  happen('pagehide');
  assert.deepEqual(world.clock.delays, []);
  happen('pageshow');
  assert.equal(socket.state, 'connecting');
});

test('a page that is closed for good does nothing when it comes back', () => {
  const { world, socket, happen } = opened();
  socket.close();
  happen('pagehide');
  happen('pageshow');
  assert.equal(world.sockets.length, 1);
});
