// Several sockets on one link.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { World, quietly } from './world.mjs';

const at = (offset, epoch = 'a') => ({ epoch, offset });
const told = (offset, recovered = true, replay = 0) => (
  { broadcast: { ...at(offset), recovered, replay } }
);
const FLAGS = ['subscribe-broadcast'];

/** A page with a socket that is open, and what happens to the sockets that it subscribes. */
class Shared extends World {
  events = {};

  constructor(options = {}) {
    super();
    this.socket = this.connect({ facility: 'own', flags: 'subscribe-broadcast', ...options });
  }

  subscribe(facility, options) {
    const socket = this.socket.subscribe(facility, 'subscribe-broadcast', options);
    const events = this.events[facility] = [];
    this.listen(socket, (type, detail) => events.push([type, detail]));
    return socket;
  }

  /** What has been sent since the last time. */
  get sent() {
    const frames = this.ws.frames.slice(this.read);
    this.read += frames.length;
    return frames;
  }

  get ws() {
    if (this.last !== this.sockets.at(-1)) {
      this.last = this.sockets.at(-1);
      this.read = 0;
    }
    return this.last;
  }

  types(facility) {
    return this.events[facility].map(([type]) => type);
  }
}

test('another socket of a page is subscribed on the open link', () => {
  const world = new Shared();
  world.ws.welcome();
  world.sent;
  const orders = world.subscribe('orders/7', { positions: { broadcast: at(4) } });
  assert.equal(world.sockets.length, 1);
  assert.deepEqual(world.sent, [{
    type: 'subscribe', id: 1, facility: 'orders/7', flags: FLAGS, positions: { broadcast: at(4) },
  }]);
  assert.equal(orders.state, 'connecting');
  assert.equal(orders.send('too early'), false);
  world.ws.receive({ type: 'subscribed', id: 1, channels: told(5, true, 1) });
  assert.equal(orders.state, 'open');
  const message = { type: 'message', id: 1, channel: 'broadcast', ...at(5), data: 'x' };
  world.ws.receive(message);
  world.ws.receive({ ...message, id: 2 });
  assert.deepEqual(world.types('orders/7'), ['state', 'open', 'message', 'recovered']);
  assert.deepEqual(world.details('message'), []);
  assert.deepEqual(orders.positions, { broadcast: at(5) });
  orders.send('hello');
  world.socket.send('mine');
  assert.deepEqual(world.sent, [
    { type: 'publish', id: 1, data: 'hello' }, { type: 'publish', data: 'mine' },
  ]);
});

test('flags may be a text with commas or spaces, or an array', () => {
  const world = new Shared();
  world.ws.welcome();
  for (const flags of ['echo,publish-user', ' echo  publish-user', ['echo', 'publish-user'], '']) {
    world.socket.subscribe('x', flags);
  }
  const both = ['echo', 'publish-user'];
  assert.deepEqual(
    world.sent.slice(1).map(({ flags }) => flags), [both, both, both, []],
  );
});

test('all of them are presented in one batch, on each link with new ids and their positions', () => {
  const world = new Shared();
  world.subscribe('b');
  world.subscribe('c');
  world.ws.welcome();
  const hello = { type: 'hello', positions: {} };
  const ask = (id, facility, positions = {}) => (
    { type: 'subscribe', id, facility, flags: FLAGS, positions }
  );
  assert.deepEqual(world.ws.batches, [[hello, ask(1, 'b'), ask(2, 'c')]]);
  world.ws.receive({ type: 'subscribed', id: 2, channels: told(3, null) });
  world.ws.finish();
  world.clock.advance(1250);
  world.ws.accept();
  assert.deepEqual(
    world.ws.batches, [[hello, ask(3, 'b'), ask(4, 'c', { broadcast: at(3) })]],
  );
  // A late frame of an old id is nobody's.
  world.ws.receive({ type: 'subscribed', id: 2, channels: told(9, null) });
  assert.deepEqual(world.types('c').at(-1), 'state');
});

test('no batch is larger than a server takes', () => {
  const world = new Shared();
  const positions = Object.fromEntries(
    Array.from({ length: 20 }, (_, index) => [`group:${'x'.repeat(20)}${index}`, at(123456789)]),
  );
  for (let index = 0; index < 100; index += 1) {
    world.subscribe(`many/${index}`, { positions });
  }
  for (let index = 0; index < 200; index += 1) {
    world.subscribe(`few/${index}`);
  }
  world.ws.accept();
  const numbers = Array.from({ length: 300 }, (_, index) => index + 1);
  assert.deepEqual(world.ws.frames.map(({ id }) => id).slice(1), numbers);
  for (const batch of world.ws.batches) {
    assert.equal(batch.length <= 256 && JSON.stringify(batch).length <= 65536, true);
  }
});

test('a socket that is closed is unsubscribed, and the link stays for the others', () => {
  const world = new Shared();
  const other = world.subscribe('b');
  world.ws.welcome();
  world.sent;
  other.close();
  assert.deepEqual(world.sent, [{ type: 'unsubscribe', id: 1 }]);
  assert.deepEqual(world.events.b.at(-1), ['close', { code: 1000, reason: '', delay: null }]);
  other.open();
  assert.deepEqual(world.sent.map(({ type, id }) => [type, id]), [['subscribe', 2]]);
  world.socket.close();
  assert.deepEqual(world.sent, [{ type: 'unsubscribe' }]);
  world.ws.receive({ type: 'message', channel: 'broadcast', ...at(1), data: 'late' });
  assert.deepEqual(world.details('message'), []);
  other.close();
  assert.deepEqual(world.ws.closedWith, { code: 1000, reason: '' });
  assert.deepEqual(world.clock.delays, []);
});

test('a socket that was closed before the link was open is never subscribed', () => {
  const world = new Shared();
  world.subscribe('b').close();
  world.ws.welcome();
  assert.deepEqual(world.sent, [{ type: 'hello', positions: {} }]);
});

test('a link that goes to the address of a closed socket unsubscribes that', () => {
  const world = new Shared();
  world.subscribe('b');
  world.socket.close();
  world.ws.welcome();
  assert.deepEqual(world.sent.map(({ type }) => type), ['hello', 'unsubscribe', 'subscribe']);
  world.ws.finish();
  world.clock.advance(1250);
  world.ws.welcome();
  assert.deepEqual(world.sent.map(({ type }) => type), ['hello', 'unsubscribe', 'subscribe']);
  assert.equal(world.socket.state, 'closed');
});

for (const type of ['refused', 'ended']) {
  test(`a socket that is ${type} for the moment comes again, as late as the server asks`, () => {
    const world = new Shared();
    const other = world.subscribe('b');
    world.ws.welcome();
    quietly(() => world.ws.receive({ type, id: 1, code: 1013, reason: 'retry-after=10' }));
    assert.equal(other.state, 'waiting');
    assert.deepEqual(
      world.events.b.at(-1), ['close', { code: 1013, reason: 'retry-after=10', delay: 15000 }],
    );
    assert.equal(world.socket.state, 'open');
    world.sent;
    world.ws.receive({ type: 'ping' });
    world.clock.advance(4000);
    world.ws.finish();
    world.clock.advance(1250);
    world.ws.welcome();
    assert.deepEqual(world.sent.map((frame) => frame.type), ['hello']);
    for (let seconds = 5; seconds < 15; seconds += 3) {
      world.clock.advance(3000);
      world.ws.receive({ type: 'ping' });
    }
    assert.deepEqual(
      world.sent.filter((frame) => frame.id).map((frame) => [frame.type, frame.id]),
      [['subscribe', 2]],
    );
    world.ws.receive({ type: 'subscribed', id: 2, channels: {} });
    assert.equal(other.state, 'open');
  });

  test(`a socket that is ${type} for good stays away, and says why`, () => {
    for (const [code, types] of [[1008, ['state', 'close']], [4501, ['state', 'close', 'revoked']]]) {
      const world = new Shared();
      const other = world.subscribe('b');
      world.ws.welcome();
      const messages = quietly(() => world.ws.receive({ type, id: 1, code, reason: 'no' }));
      assert.deepEqual(messages, [`WS4Redis: b ${code} no`]);
      assert.equal(other.state, 'closed');
      assert.deepEqual(world.types('b'), types);
      assert.equal(world.socket.state, 'open');
      world.sent;
      world.ws.receive({ type: 'ping' });
      other.open();
      assert.deepEqual(world.sent.map((frame) => frame.type), ['pong', 'subscribe']);
    }
  });
}

test('each attempt of a socket that the server does not take waits for longer', () => {
  const world = new Shared();
  world.chance = 1;
  world.subscribe('b');
  world.ws.welcome({}, 1000);
  quietly(() => {
    for (let id = 1; id < 6; id += 1) {
      world.ws.receive({ type: 'refused', id, code: 1011, reason: '' });
      const [, { delay }] = world.events.b.at(-1);
      world.clock.advance(delay);
    }
  });
  const delays = world.events.b.filter(([type]) => type === 'close').map(([, { delay }]) => delay);
  assert.deepEqual(delays, [2000, 4000, 8000, 16000, 30000]);
});

test("the link's own socket ends while others are there, and comes again by an id", () => {
  const world = new Shared();
  world.subscribe('b');
  world.ws.welcome({ broadcast: { ...at(2), recovered: null, replay: 0 } });
  world.sent;
  quietly(() => world.ws.receive({ type: 'ended', code: 1013, reason: '' }));
  assert.equal(world.socket.state, 'waiting');
  world.clock.advance(1250);
  assert.deepEqual(world.sent.map(({ type, id, positions }) => [type, id, positions]), [
    ['subscribe', 2, { broadcast: at(2) }],
  ]);
});

test('a final end of the link is for those who were heard, and not for others', () => {
  const world = new Shared();
  const heard = world.subscribe('heard');
  world.ws.welcome();
  world.ws.receive({ type: 'subscribed', id: 1, channels: {} });
  const asked = world.subscribe('asked');
  quietly(() => world.ws.finish(4501, 'You have logged out.'));
  assert.deepEqual([world.socket.state, heard.state, asked.state], ['closed', 'closed', 'connecting']);
  assert.deepEqual(world.types('heard').slice(-3), ['state', 'close', 'revoked']);
  assert.equal(world.sockets.length, 2);
  world.ws.welcome();
  assert.deepEqual(world.sent.map(({ type }) => type), ['hello', 'unsubscribe', 'subscribe']);
});

test('reconnect of one brings the whole link back, as who one is has changed', () => {
  const world = new Shared();
  const other = world.subscribe('b');
  world.ws.welcome();
  quietly(() => world.ws.receive({ type: 'ended', id: 1, code: 4501, reason: '' }));
  other.reconnect();
  assert.equal(world.ws.readyState, 2);
  assert.deepEqual([world.socket.state, other.state], ['waiting', 'waiting']);
  world.clock.advance(0);
  world.ws.accept();
  assert.deepEqual(world.sent.map(({ type, id }) => [type, id]), [['hello', undefined], ['subscribe', 2]]);
});

test('what was deleted is told once, and is no message', () => {
  const world = new Shared();
  const other = world.subscribe('b');
  world.ws.welcome();
  world.ws.receive({ type: 'subscribed', id: 1, channels: told(3, null) });
  const purged = { type: 'purged', id: 1, channel: 'broadcast', ...at(4) };
  world.ws.receive(purged);
  world.ws.receive(purged);
  assert.deepEqual(world.events.b.slice(2), [['purged', { channel: 'broadcast', ...at(4) }]]);
  assert.deepEqual(other.positions, { broadcast: at(4) });
});

test('a page that shows a newer state than the socket has reached skips what is in it', () => {
  const world = new Shared({ positions: { broadcast: at(3) } });
  const { socket } = world;
  world.ws.welcome(told(3));
  socket.advance({ broadcast: at(2), user: at(1) });
  assert.deepEqual(socket.positions, { broadcast: at(3), user: at(1) });
  socket.advance({ broadcast: at(5) });
  socket.advance({ broadcast: at(9, 'another') });
  for (const offset of [4, 5, 6]) {
    world.ws.receive({ type: 'message', channel: 'broadcast', ...at(offset), data: `${offset}` });
  }
  assert.deepEqual(world.details('message').map(({ data }) => data), ['6']);
});

// The stories of which tests/js/vectors.json has the frames. `do` is what the page does, `sent` what
// the client has sent since the last time, `frame` what the server sends, and `cut` the end of the
// link. The names are those of the page; that of the link's own socket is "".
const { subscriptions } = JSON.parse(readFileSync(new URL('vectors.json', import.meta.url)));

for (const { name, steps, expect } of subscriptions) {
  test(name, () => {
    const world = new Shared();
    world.chance = 0;
    const sockets = { '': world.socket };
    const events = { '': [] };
    world.listen(world.socket, (type, detail) => events[''].push([type, detail]));
    quietly(() => {
      for (const { do: action, name: which, flags, sent, frame, cut, after } of steps) {
        if (action === 'subscribe') {
          sockets[which] ??= world.subscribe(which);
          events[which] = world.events[which];
          sockets[which].open();
        } else if (action === 'unsubscribe') {
          sockets[which].close();
        } else if (sent) {
          const frames = world.sent.map(({ flags: ignored, ...rest }) => rest);
          assert.deepEqual(frames, sent);
        } else if (cut) {
          world.ws.finish();
        } else if (after) {
          world.clock.advance(1000 * after);
        } else {
          if (world.ws.readyState === 0) {
            world.ws.accept();
          }
          world.ws.receive(frame);
        }
        if (cut) {
          world.clock.advance(500);
          world.ws.accept();
        }
      }
    });
    const of = (which, kind) => events[which].filter(([type]) => type === kind);
    assert.deepEqual(Object.fromEntries(Object.keys(sockets).map((which) => [which, {
      delivered: of(which, 'message').map(([, { data }]) => data),
      lost: of(which, 'lost').length,
      purged: of(which, 'purged').length,
      revoked: of(which, 'revoked').length,
      open: sockets[which].state === 'open',
      positions: sockets[which].positions,
    }])), expect);
  });
}
