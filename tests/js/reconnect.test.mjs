import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World, WS4Redis, quietly } from './world.mjs';

const COME_BACK = [1000, 1001, 1005, 1006, 1009, 1011, 1012, 1013, 4000, 4001, 4002, 4499];
const STAY_AWAY = [1008, 4500, 4501, 4999];

test('the subprotocol is offered and the positions are presented first', () => {
  const world = new World();
  const socket = world.connect();
  assert.deepEqual(world.ws.args, ['wss://example.com/ws/foo?subscribe-broadcast', 'ws4redis.v1']);
  assert.equal(socket.state, 'connecting');
  world.ws.accept();
  assert.deepEqual(world.ws.frames, [{ type: 'hello', positions: {} }]);
  assert.equal(socket.state, 'connecting');
  world.ws.receive({ type: 'welcome', heartbeat: 4, channels: {} });
  assert.equal(socket.state, 'open');
  assert.deepEqual(world.log, [
    ['state', { state: 'open', previous: 'connecting' }],
    ['open', { channels: {} }],
  ]);
});

test('a socket without an address is refused', () => {
  for (const uri of [undefined, null]) {
    assert.throws(() => WS4Redis.connect(uri), new Error('No Websocket URI in options'));
  }
});

test('addresses are made absolute, with the scheme of the page', () => {
  const cases = [
    ['https://example.com/page/', '/ws/foo?echo', 'wss://example.com/ws/foo?echo'],
    ['http://localhost:8000/a/b', '/ws/foo', 'ws://localhost:8000/ws/foo'],
    ['https://example.com/page/', '//other.org/ws/x', 'wss://other.org/ws/x'],
    ['https://example.com/page/', 'http://other.org/ws/x', 'ws://other.org/ws/x'],
    ['https://example.com/page/', 'ws://other.org', 'ws://other.org/'],
    ['https://example.com/page/', () => '/ws/bar', 'wss://example.com/ws/bar'],
  ];
  for (const [href, uri, expected] of cases) {
    const world = new World();
    globalThis.location = new URL(href);
    world.connect({}, uri);
    delete globalThis.location;
    assert.equal(world.ws.url, expected);
  }
});

test('a function as address is asked for each attempt', () => {
  const world = new World();
  let asked = 0;
  world.connect({}, () => `wss://example.com/ws/foo?token=${(asked += 1)}`);
  world.ws.finish();
  world.clock.advance(1250);
  assert.deepEqual(world.sockets.map(({ url }) => url), [
    'wss://example.com/ws/foo?token=1',
    'wss://example.com/ws/foo?token=2',
  ]);
});

for (const code of COME_BACK) {
  test(`after close code ${code} the client comes back`, () => {
    const world = new World();
    const socket = world.connect();
    world.ws.welcome();
    world.ws.finish(code, 'why');
    assert.equal(socket.state, 'waiting');
    assert.deepEqual(world.details('close'), [{ code, reason: 'why', delay: 1250 }]);
    world.clock.advance(1250);
    assert.equal(world.sockets.length, 2);
    assert.equal(socket.state, 'connecting');
  });
}

for (const code of STAY_AWAY) {
  test(`after close code ${code} the client stays away`, () => {
    const world = new World();
    const socket = world.connect();
    world.ws.welcome();
    world.ws.finish(code, 'why');
    assert.equal(socket.state, 'closed');
    assert.deepEqual(world.details('close'), [{ code, reason: 'why', delay: null }]);
    assert.deepEqual(world.clock.delays, []);
    world.window.dispatchEvent(new Event('online'));
    world.show();
    world.clock.advance(1e6);
    assert.equal(world.sockets.length, 1);
  });
}

test('a client that is cut off is told so, and comes back when the page says so', () => {
  for (const code of [4501, 4999]) {
    const world = new World();
    const socket = world.connect();
    world.ws.welcome();
    world.ws.finish(code, 'You have logged out.');
    assert.deepEqual(world.details('revoked'), [{ code, reason: 'You have logged out.' }]);
    assert.equal(world.log.at(-1)[0], 'revoked');
    socket.reconnect();
    world.ws.welcome();
    assert.equal(socket.state, 'open');
    assert.equal(world.sockets.length, 2);
  }
});

test('an end that takes nothing away is no revocation', () => {
  for (const code of [...COME_BACK, 1008, 4500]) {
    const world = new World();
    world.connect();
    world.ws.welcome();
    world.ws.finish(code);
    assert.deepEqual(world.details('revoked'), []);
  }
});

test('a page that closes with such a code itself is not told', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome();
  socket.close(4501);
  world.ws.finish(4501);
  assert.deepEqual(world.details('revoked'), []);
});

test('a server with too much to do says for how long to stay away', () => {
  const delayAfter = (reason, { chance = 0.5, code = 1013 } = {}) => {
    const world = new World();
    world.chance = chance;
    world.connect();
    world.ws.accept();
    world.ws.finish(code, reason);
    return world.details('close')[0].delay;
  };
  assert.equal(delayAfter('retry-after=10', { chance: 0 }), 10000);
  assert.equal(delayAfter('retry-after=10'), 15000);
  assert.equal(delayAfter('retry-after=10', { chance: 1 }), 20000);
  assert.equal(delayAfter('retry-after=0'), 1250);
  assert.equal(delayAfter('retry-after=999999999'), 450000);
  for (const other of ['', 'retry-after=', 'retry-after=-5', 'retry-after=1e9', 'x retry-after=10']) {
    assert.equal(delayAfter(other), 1250);
  }
  assert.equal(delayAfter('retry-after=10', { code: 1011 }), 1250);
  assert.equal(delayAfter(undefined), 1250);
});

test('a client of the legacy call stays away as long', () => {
  const world = new World();
  world.legacy();
  world.ws.accept();
  world.ws.finish(1013, 'retry-after=10');
  assert.deepEqual(world.clock.delays, [15000]);
});

test('the jitter is full, from 0.5 s to a bound that doubles up to 30 s, for ever', () => {
  for (const [chance, expected] of [
    [0, [500, 500, 500, 500, 500, 500, 500]],
    [0.5, [1250, 2250, 4250, 8250, 15250, 15250, 15250]],
    [1, [2000, 4000, 8000, 16000, 30000, 30000, 30000]],
  ]) {
    const world = new World();
    world.chance = chance;
    world.connect();
    for (let attempt = 0; attempt < 500; attempt += 1) {
      world.ws.finish();
      world.clock.advance(world.clock.delays[0]);
    }
    const delays = world.details('close').map(({ delay }) => delay);
    assert.deepEqual(delays.slice(0, 7), expected);
    assert.equal(delays.at(-1), expected.at(-1));
    assert.equal(world.sockets.length, 501);
  }
});

test('the backoff starts afresh only after a link that lasted', () => {
  const world = new World();
  world.connect();
  const lost = (after) => {
    world.ws.welcome();
    world.clock.advance(after);
    world.ws.finish();
    const { delay } = world.details('close').at(-1);
    world.clock.advance(delay);
    return delay;
  };
  assert.deepEqual([lost(0), lost(4999), lost(10)], [1250, 2250, 4250]);
  assert.deepEqual([lost(5000), lost(5000), lost(0)], [1250, 1250, 2250]);
});

test('an attempt without answer is given up after 20 s', () => {
  for (const step of [() => {}, (ws) => ws.accept()]) {
    const world = new World();
    world.connect();
    const first = world.ws;
    step(first);
    world.clock.advance(19999);
    assert.equal(first.readyState < 2, true);
    world.clock.advance(1);
    assert.equal(first.readyState, 2);
    assert.deepEqual(world.details('close'), [{ code: 1006, reason: 'No answer', delay: 1250 }]);
    world.clock.advance(1250);
    assert.equal(world.sockets.length, 2);
  }
});

test('nothing of a WebSocket that was given up is heard again', () => {
  const world = new World();
  const socket = world.connect();
  const first = world.ws;
  world.clock.advance(20000);
  first.readyState = 1;
  first.accept();
  first.receive({ type: 'welcome', channels: {} });
  first.finish(4500);
  assert.equal(socket.state, 'waiting');
  assert.equal(world.details('close').length, 1);
});

for (const [name, wake] of [
  ['online', (world) => world.window.dispatchEvent(new Event('online'))],
  ['pageshow', (world) => world.window.dispatchEvent(new Event('pageshow'))],
  ['the tab becoming visible', (world) => world.show()],
]) {
  test(`a waiting client wakes up at once by ${name}`, () => {
    const world = new World();
    const socket = world.connect();
    world.ws.finish();
    wake(world);
    assert.equal(socket.state, 'connecting');
    assert.equal(world.sockets.length, 2);
    world.clock.advance(15000);
    assert.equal(world.sockets.length, 2, 'the timer of the attempt is gone');
  });

  test(`an open link is probed by ${name}`, () => {
    const world = new World();
    world.connect();
    world.ws.welcome();
    wake(world);
    assert.deepEqual(world.ws.frames.at(-1), { type: 'ping' });
    world.clock.advance(5000);
    assert.deepEqual(world.details('close'), [{ code: 1006, reason: 'No answer', delay: 1250 }]);
  });

  test(`an attempt under way is left alone by ${name}`, () => {
    const world = new World();
    world.connect();
    wake(world);
    world.ws.accept();
    wake(world);
    assert.deepEqual(world.ws.frames, [{ type: 'hello', positions: {} }]);
    assert.equal(world.sockets.length, 1);
  });
}

test('a tab that gets hidden does nothing', () => {
  const world = new World();
  world.connect();
  world.ws.finish();
  world.show(true);
  assert.equal(world.sockets.length, 1);
});

test('close stops every timer, every event listener and all reconnecting', () => {
  for (const prepare of [
    () => {},
    (world) => world.ws.accept(),
    (world) => world.ws.welcome(),
    (world) => world.ws.finish(),
  ]) {
    const world = new World();
    const socket = world.connect();
    prepare(world);
    socket.close();
    assert.equal(socket.state, 'closed');
    assert.deepEqual(world.clock.delays, []);
    world.window.dispatchEvent(new Event('online'));
    world.window.dispatchEvent(new Event('pageshow'));
    world.show();
    assert.equal(world.sockets.length, 1);
    assert.equal(world.ws.readyState >= 2, true);
    assert.equal(socket.send('late'), false);
  }
});

test('a closed socket leaves no listener on the page', () => {
  const world = new World();
  const listening = new Set();
  world.env.window = {
    addEventListener: (type) => listening.add(type),
    removeEventListener: (type) => listening.delete(type),
  };
  const expected = ['online', 'pageshow', 'pagehide', 'beforeunload', 'visibilitychange'];
  const socket = world.connect();
  assert.deepEqual([...listening], expected);
  socket.close();
  assert.equal(listening.size, 0);
  socket.open();
  assert.deepEqual([...listening], expected);
  world.ws.finish(1008);
  assert.equal(listening.size, 0);
});

test('close tells the server and the page why', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome();
  world.log.length = 0;
  socket.close();
  assert.deepEqual(world.ws.closedWith, { code: 1000, reason: '' });
  socket.close();
  world.ws.finish(1000, 'bye');
  assert.deepEqual(world.log, [
    ['state', { state: 'closed', previous: 'open' }],
    ['close', { code: 1000, reason: '', delay: null }],
  ]);

  const other = world.connect();
  other.close(4321, 'enough');
  assert.deepEqual(world.ws.closedWith, { code: 4321, reason: 'enough' });
});

test('frames that come while the socket is closing are ignored', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome();
  socket.close();
  world.ws.readyState = 1;
  world.ws.receive({ type: 'message', channel: 'broadcast', epoch: 'a', offset: 1, data: 'x' });
  world.ws.receive({ type: 'welcome', channels: {} });
  assert.deepEqual(world.details('message'), []);
  assert.deepEqual(world.clock.delays, []);
});

test('a socket closed by a listener stays closed', () => {
  const world = new World();
  const socket = world.connect();
  socket.addEventListener('close', () => socket.close());
  world.ws.finish();
  assert.equal(socket.state, 'closed');
  assert.deepEqual(world.clock.delays, []);

  const other = world.connect();
  world.ws.finish();
  other.addEventListener('state', ({ detail }) => detail.state === 'connecting' && other.close());
  const { length } = world.sockets;
  world.clock.advance(30000);
  assert.equal(world.sockets.length, length);
  assert.deepEqual(world.clock.delays, []);
});

test('a closed socket can be opened again and goes on where it was', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome({ broadcast: { epoch: 'a', offset: 3, recovered: null, replay: 0 } });
  socket.open();
  assert.equal(world.sockets.length, 1, 'it was open');
  const first = world.ws;
  socket.close();
  socket.open();
  first.finish();
  assert.equal(socket.state, 'connecting');
  world.ws.accept();
  const positions = { broadcast: { epoch: 'a', offset: 3 } };
  assert.deepEqual(world.ws.frames, [{ type: 'hello', positions }]);
});

test('start: false waits for open()', () => {
  const world = new World();
  const socket = world.connect({ start: false });
  assert.equal(socket.state, 'closed');
  assert.equal(world.sockets.length, 0);
  socket.open();
  assert.equal(socket.state, 'connecting');
  assert.equal(world.sockets.length, 1);
});

test('reconnect gives up the link and comes back after the time asked for', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome();
  socket.reconnect(10000);
  assert.equal(world.sockets[0].readyState, 2);
  assert.equal(socket.state, 'waiting');
  assert.deepEqual(world.details('close'), [{ code: 1006, reason: 'Reconnecting', delay: 10000 }]);
  socket.reconnect();
  world.clock.advance(0);
  assert.equal(world.sockets.length, 2);
  world.clock.advance(19999);
  assert.equal(world.sockets.length, 2);
  socket.close();
  socket.reconnect();
  assert.equal(socket.state, 'connecting');
});

test('an attempt that cannot even begin is reported and repeated', () => {
  const world = new World();
  const { WebSocket } = world.env;
  let broken = true;
  world.env.WebSocket = function Fragile(...args) {
    if (broken) {
      throw new Error('out of order');
    }
    return new WebSocket(...args);
  };
  const messages = quietly(() => { world.socket = world.connect(); });
  assert.equal(messages.length, 1);
  assert.equal(world.socket.state, 'waiting');
  broken = false;
  world.clock.advance(1250);
  assert.equal(world.socket.state, 'connecting');
  assert.equal(world.sockets.length, 1);
});

test('without a page (a worker, Node) there is nothing to wake up by, and all else works', () => {
  const world = new World();
  Object.assign(world.env, { window: {}, document: undefined, location: undefined });
  const socket = world.connect();
  world.ws.welcome();
  assert.equal(socket.state, 'open');
  socket.close();
});

test('the default environment is the global one', (context) => {
  const world = new World();
  context.mock.timers.enable(['setTimeout']);
  context.mock.method(Math, 'random', () => 0.5);
  globalThis.WebSocket = world.WebSocket;
  const socket = WS4Redis.connect('ws://example.com/ws/foo');
  world.ws.finish();
  context.mock.timers.tick(40000);
  assert.equal(world.sockets.length > 1, true);
  socket.close();
});
