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

const at = (offset) => ({ broadcast: { epoch: 'a', offset } });
const stamped = (facility, offset) => (
  tag(facility, { ws4redisPositions: JSON.stringify(at(offset)) })
);

/** A page that scripts replace: a link with these sockets, each of which has heard up to here. */
function turnedPage(offset, ...facilities) {
  const page = pageWith(...facilities.map((facility) => stamped(facility, offset - 1)));
  const { ws } = page.world;
  const channels = { broadcast: { epoch: 'a', offset, recovered: true, replay: 1 } };
  ws.accept();
  ws.receive({ type: 'welcome', heartbeat: 20, channels });
  const events = [];
  facilities.forEach((facility, index) => {
    const id = index || undefined;
    if (id) {
      ws.receive({ type: 'subscribed', id, channels });
    }
    ws.receive({ type: 'message', id, channel: 'broadcast', epoch: 'a', offset, data: '' });
    page.world.listen(page.window.WS4Redis.sockets[facility], (type, detail) => (
      events.push([facility, type, detail.state || detail.offset])
    ));
  });
  page.document.readyState = 'complete';
  ws.sent = [];
  return { page, ws, events, sockets: page.window.WS4Redis.sockets };
}

test('the next page goes on if it stands where the socket does, or ahead of it', () => {
  const { page, ws, events, sockets } = turnedPage(5, 'a', 'b');
  page.run(stamped('a', 5));
  page.run(stamped('b', 7));
  assert.deepEqual({ ...sockets.b.positions.broadcast }, at(7).broadcast);
  assert.deepEqual([ws.frames, events, page.world.sockets.length], [[], [], 1]);
});

for (const [which, facility, id] of [['first', 'a', undefined], ['second', 'b', 1]]) {
  test(`a page that is behind the ${which} socket of a link has the rest sent again`, () => {
    const { page, ws, events } = turnedPage(5, 'a', 'b');
    page.run(stamped(facility, 3));
    assert.deepEqual(ws.frames, [
      JSON.parse(JSON.stringify({ type: 'unsubscribe', id })),
      {
        type: 'subscribe', id: 2, facility, flags: ['subscribe-broadcast'], positions: at(3),
      },
    ]);
    ws.receive({ type: 'message', id, channel: 'broadcast', epoch: 'a', offset: 6, data: 'late' });
    ws.receive({
      type: 'subscribed', id: 2,
      channels: { broadcast: { epoch: 'a', offset: 5, recovered: true, replay: 2 } },
    });
    for (const offset of [4, 5]) {
      ws.receive({ type: 'message', id: 2, channel: 'broadcast', epoch: 'a', offset, data: '' });
    }
    assert.deepEqual(events.filter(([, type]) => type !== 'open'), [
      [facility, 'state', 'connecting'],
      [facility, 'state', 'open'],
      [facility, 'message', 4],
      [facility, 'message', 5],
      [facility, 'recovered', undefined],
    ]);
    assert.equal(page.world.sockets.length, 1);
  });
}

test('nor does a socket that is alone on its link open another one for that', () => {
  const { page, ws } = turnedPage(5, 'a');
  page.run(stamped('a', 3));
  assert.deepEqual(ws.frames.map(({ type }) => type), ['unsubscribe', 'subscribe']);
  assert.deepEqual(ws.frames[1].positions, at(3));
  assert.equal(page.world.sockets.length, 1);
});

test('where a server takes one socket on a link, there is another link', () => {
  const { page, ws, events } = turnedPage(5, 'a');
  ws.receive({ type: 'welcome', heartbeat: 20, subscriptions: 0, channels: {} });
  events.length = 0;
  page.run(stamped('a', 3));
  assert.deepEqual([page.world.sockets.length, ws.readyState], [2, 2]);
  page.world.ws.accept();
  assert.deepEqual(page.world.ws.frames, [{ type: 'hello', positions: at(3) }]);
  assert.deepEqual(events, [['a', 'state', 'connecting']]);
});

test('a page without a stamp begins anew, and so does one of another epoch', () => {
  for (const positions of [{}, { broadcast: { epoch: 'b', offset: 9 } }]) {
    const { page, ws } = turnedPage(5, 'a');
    page.run(tag('a', { ws4redisPositions: JSON.stringify(positions) }));
    assert.deepEqual(ws.frames[1].positions, positions);
  }
});

test('a socket that waits, or is closed, comes back from where the new page stands', () => {
  for (const away of [
    ({ page, ws }) => { ws.finish(); page.run(stamped('a', 3)); page.world.clock.advance(2000); },
    ({ page, sockets }) => { sockets.a.close(); page.run(stamped('a', 3)); },
  ]) {
    const turned = turnedPage(5, 'a');
    away(turned);
    const { world } = turned.page;
    assert.equal(world.sockets.length, 2);
    world.ws.accept();
    assert.deepEqual(world.ws.frames, [{ type: 'hello', positions: at(3) }]);
  }
});

test('a subscription that the server asked to wait goes on waiting', () => {
  const { page, ws } = turnedPage(5, 'a', 'b');
  ws.receive({ type: 'ended', id: 1, code: 1013, reason: 'retry-after=10' });
  page.run(stamped('b', 3));
  assert.deepEqual(ws.frames, []);
  page.world.clock.advance(20000);
  const asked = ws.frames.filter(({ type }) => type === 'subscribe');
  assert.deepEqual(asked.map(({ positions }) => positions), [at(3)]);
});
