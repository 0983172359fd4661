// Which sockets share a link, and by whose address.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Page } from './page.mjs';
import { World, quietly } from './world.mjs';

const tag = (facility, rest = {}) => ({
  ws4redisUri: `/ws/${encodeURI(facility)}?subscribe-broadcast`,
  ws4redisFacility: facility,
  ws4redisFlags: 'subscribe-broadcast',
  ws4redisName: facility,
  ...rest,
});

/** A page with these elements, when it has been parsed. */
function pageWith(...datasets) {
  const page = new Page();
  datasets.forEach((dataset) => page.run(dataset));
  page.parsed();
  return page;
}

const paths = ({ world }) => world.sockets.map(({ url }) => new URL(url).pathname);
const asked = ({ world }) => world.ws.frames.map(({ type, facility }) => facility || type);

test('the elements of a page share one link, which the first one opens', () => {
  const page = pageWith(tag('a'), tag('b/2'), tag('c d\u00e9'));
  assert.deepEqual(paths(page), ['/ws/a']);
  page.world.ws.accept();
  assert.deepEqual(asked(page), ['hello', 'b/2', 'c d\u00e9']);
  assert.deepEqual(page.ready.map(({ name }) => name), ['a', 'b/2', 'c d\u00e9']);
});

test('elements of another beginning, and those that do not name their facility, do not', () => {
  const other = tag('b', { ws4redisUri: '/elsewhere/ws/b?subscribe-broadcast' });
  const page = pageWith(tag('a'), other, { ws4redisUri: '/ws/c', ws4redisName: 'c' });
  assert.deepEqual(paths(page), ['/ws/a', '/elsewhere/ws/b', '/ws/c']);
});

test('elements with the same address have one socket, under each of their names', () => {
  const page = pageWith(tag('a'), tag('a'), tag('a', { ws4redisName: 'again' }));
  const { sockets } = page.window.WS4Redis;
  assert.equal(sockets.again, sockets.a);
  page.world.ws.accept();
  assert.deepEqual(asked(page), ['hello']);
});

test('another address is tried if one was refused, and the refused one is asked for by a frame', () => {
  const page = pageWith(tag('a'), tag('b'));
  page.world.ws.finish();
  page.world.clock.advance(page.world.clock.delays[0]);
  assert.deepEqual(paths(page), ['/ws/a', '/ws/b']);
  page.world.ws.accept();
  assert.deepEqual(asked(page), ['hello', 'a']);
});

test('a socket that has left does not tie the link to its address', () => {
  const page = pageWith(tag('a'), tag('b'));
  const { sockets } = page.window.WS4Redis;
  page.world.ws.welcome();
  sockets.a.close();
  page.world.ws.finish();
  page.world.clock.advance(page.world.clock.delays[0]);
  assert.deepEqual(paths(page), ['/ws/a', '/ws/b']);
  page.world.ws.accept();
  assert.deepEqual(asked(page), ['hello']);
});

test('where a server takes one socket on a link, each has its own', () => {
  const page = pageWith(tag('a'), tag('b'), tag('c'));
  const { sockets } = page.window.WS4Redis;
  page.world.ws.accept();
  page.world.ws.receive({ type: 'welcome', heartbeat: 4, subscriptions: 0, channels: {} });
  assert.deepEqual(paths(page), ['/ws/a', '/ws/b', '/ws/c']);
  page.world.sockets[0].receive({ type: 'refused', id: 1, code: 1008, reason: '' });
  assert.deepEqual([sockets.a.state, sockets.b.state], ['open', 'connecting']);
  page.world.ws.welcome();
  assert.equal(sockets.c.state, 'open');
  page.document.readyState = 'complete';
  page.run(tag('d'));
  assert.deepEqual(paths(page).at(-1), '/ws/d');
});

test('a socket that does not say what its address names needs that address', () => {
  const world = new World();
  const socket = world.connect();
  const other = socket.subscribe('b', 'subscribe-broadcast');
  world.ws.welcome();
  world.ws.receive({ type: 'subscribed', id: 1, channels: {} });
  quietly(() => world.ws.receive({ type: 'ended', code: 1013, reason: '' }));
  world.clock.advance(1250);
  assert.deepEqual([socket.state, other.state], ['connecting', 'connecting']);
  world.ws.welcome();
  assert.equal(socket.state, 'open');
  assert.deepEqual(world.ws.frames.map(({ type }) => type), ['hello', 'subscribe']);
});

test('a page that names a socket again goes on, from its stamp where that is ahead', () => {
  const at = (offset) => ({ broadcast: { epoch: 'a', offset } });
  const page = pageWith(tag('a', { ws4redisPositions: JSON.stringify(at(5)) }));
  const { a } = page.window.WS4Redis.sockets;
  const plain = () => JSON.parse(JSON.stringify(a.positions));
  page.document.readyState = 'complete';
  page.run(tag('a', { ws4redisPositions: JSON.stringify(at(3)) }));
  assert.deepEqual(plain(), at(5));
  page.run(tag('a', { ws4redisPositions: JSON.stringify(at(7)) }));
  assert.deepEqual(plain(), at(7));
  assert.equal(page.world.sockets.length, 1);
  a.close();
  page.run(tag('a', { ws4redisPositions: JSON.stringify(at(2)) }));
  assert.equal(a.state, 'connecting');
  page.world.ws.accept();
  assert.deepEqual(page.world.ws.frames, [{ type: 'hello', positions: at(7) }]);
});
