// The state of a page: fetched, shown, and followed by what is newer.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World, quietly } from './world.mjs';

const at = (offset) => ({ epoch: 'a', offset });
const first = (offset, replay = 0) => ({ broadcast: { ...at(offset), recovered: null, replay } });
const message = (offset) => (
  { type: 'message', channel: 'broadcast', ...at(offset), data: `${offset}` }
);

/** A page whose state is at hand when a test says so. */
class Stateful extends World {
  asked = [];
  shown = [];

  constructor(options) {
    super();
    this.socket = this.connect({
      getState: () => new Promise((resolve, reject) => this.asked.push({ resolve, reject })),
      ...options,
    });
    this.socket.addEventListener('message', ({ detail }) => this.shown.push(detail.data));
  }

  async answer(stamp, index = this.asked.length - 1) {
    this.asked[index].resolve(stamp);
    await new Promise(setImmediate);
  }

  async fail(error = new Error('no')) {
    this.asked.at(-1).reject(error);
    const { error: log } = console;
    console.error = (told) => this.errors.push(told);
    await new Promise(setImmediate);
    console.error = log;
  }

  errors = [];

  receive(...offsets) {
    offsets.forEach((offset) => this.ws.receive(message(offset)));
  }
}

test('the state comes first, and what it lacks follows in order and once', async () => {
  const world = new Stateful();
  assert.equal(world.asked.length, 0);
  world.ws.welcome(first(5, 1));
  world.clock.advance(0);
  assert.equal(world.asked.length, 1);
  world.receive(5, 6, 7);
  assert.deepEqual(world.shown, []);
  await world.answer({ broadcast: at(6) });
  assert.deepEqual(world.details('synced'), [{ positions: { broadcast: at(6) } }]);
  world.receive(8);
  assert.deepEqual(world.shown, ['7', '8']);
  assert.deepEqual(world.socket.positions, { broadcast: at(8) });
});

test('messages that are on the way are not shown if the state has them', async () => {
  const world = new Stateful();
  world.ws.welcome(first(5));
  world.clock.advance(0);
  await world.answer({ broadcast: at(8) });
  world.receive(6, 7, 8, 9);
  assert.deepEqual(world.shown, ['9']);
});

test('a page that was rendered with a stamp has the state', () => {
  const world = new Stateful({ positions: { broadcast: at(5) } });
  world.ws.welcome({ broadcast: { ...at(6), recovered: true, replay: 1 } });
  world.receive(6);
  world.clock.advance(10);
  assert.equal(world.asked.length, 0);
  assert.deepEqual(world.shown, ['6']);
});

test('after a loss on an open link the state is fetched anew, not by all pages at once', async () => {
  const world = new Stateful({ positions: { broadcast: at(5) } });
  world.ws.welcome({ broadcast: { ...at(5), recovered: true, replay: 0 } });
  world.ws.receive({ type: 'lost', channel: 'broadcast', ...at(9) });
  assert.equal(world.details('lost').length, 1);
  world.receive(10);
  world.clock.advance(999);
  assert.equal(world.asked.length, 0);
  world.clock.advance(1);
  await world.answer({ broadcast: at(9) });
  assert.deepEqual(world.shown, ['10']);
});

test('after a reconnect the state is fetched only if something is missing', async () => {
  const world = new Stateful({ positions: { broadcast: at(5) } });
  for (const [recovered, times] of [[true, 0], [false, 1]]) {
    world.ws.welcome({ broadcast: { ...at(6), recovered, replay: 0 } });
    world.clock.advance(0);
    assert.equal(world.asked.length, times);
    world.ws.finish();
    world.clock.advance(5000);
  }
});

test('a loss while the state is on its way has it fetched again, and not at the same time', async () => {
  const world = new Stateful();
  world.ws.welcome(first(5));
  world.clock.advance(0);
  world.ws.receive({ type: 'lost', channel: 'broadcast', ...at(7) });
  world.clock.advance(2000);
  assert.equal(world.asked.length, 1);
  await world.answer({ broadcast: at(6) });
  assert.deepEqual(world.details('synced'), []);
  world.clock.advance(0);
  assert.equal(world.asked.length, 2);
  world.receive(8);
  await world.answer({ broadcast: at(7) });
  assert.deepEqual(world.shown, ['8']);
});

test('a failure is told, and followed by another attempt that waits for longer', async () => {
  const world = new Stateful();
  world.ws.welcome(first(5), 1000);
  world.clock.advance(0);
  for (const delay of [1250, 2250, 4250]) {
    await world.fail();
    world.clock.advance(delay - 1);
    const { length } = world.asked;
    world.clock.advance(1);
    assert.equal(world.asked.length, length + 1);
  }
  world.receive(6);
  await world.answer({ broadcast: at(5) });
  assert.deepEqual(world.shown, ['6']);
  assert.equal(world.errors.length, 3);
});

test('a response has the stamp in a header, and one that is no success is a failure', async () => {
  const world = new Stateful();
  const headers = new Headers({ 'WS4Redis-Positions': JSON.stringify({ broadcast: at(6) }) });
  world.ws.welcome(first(5));
  world.clock.advance(0);
  world.receive(6, 7);
  const error = new Response('', { status: 503, headers });
  const told = [];
  const { error: log } = console;
  console.error = (what) => told.push(what);
  await world.answer(error);
  console.error = log;
  assert.deepEqual(told, [error]);
  world.clock.advance(1250);
  await world.answer(new Response('', { headers }));
  assert.deepEqual(world.shown, ['7']);
});

test('without a stamp everything that has waited follows', async () => {
  for (const stamp of [undefined, {}, new Response('')]) {
    const world = new Stateful();
    world.ws.welcome(first(5, 1));
    world.clock.advance(0);
    world.receive(5, 6);
    world.ws.receive({ type: 'message', channel: 'broadcast', data: 'foreign' });
    await world.answer(stamp);
    assert.deepEqual(world.shown, ['5', '6', 'foreign']);
  }
});

test('what waits is bounded, and what was dropped is in a state that is fetched after it', async () => {
  const world = new Stateful();
  world.ws.welcome(first(0));
  world.clock.advance(0);
  world.receive(...Array.from({ length: 1500 }, (_, index) => index + 1));
  await world.answer({ broadcast: at(0) });
  world.clock.advance(0);
  assert.equal(world.asked.length, 2);
  await world.answer({ broadcast: at(1400) });
  assert.deepEqual(world.shown, Array.from({ length: 100 }, (_, index) => `${1401 + index}`));
});

test('deletions and recoveries wait in their places', async () => {
  const world = new Stateful({ positions: { user: at(1) } });
  world.ws.welcome({ ...first(5), user: { ...at(1), recovered: true, replay: 0 } });
  world.clock.advance(0);
  world.ws.receive({ type: 'purged', channel: 'broadcast', ...at(6) });
  world.ws.receive({ type: 'purged', channel: 'broadcast', ...at(7) });
  await world.answer({ broadcast: at(6) });
  assert.deepEqual(world.log.map(([type]) => type), ['state', 'open', 'synced', 'recovered', 'purged']);
});

test('a socket that was closed without the state fetches it when it is opened again', async () => {
  const world = new Stateful();
  world.ws.welcome(first(5));
  world.clock.advance(0);
  world.receive(6);
  world.socket.close();
  await world.answer({ broadcast: at(5) });
  world.clock.advance(5000);
  assert.equal(world.asked.length, 1);
  assert.deepEqual(world.shown, []);
  world.socket.open();
  world.ws.welcome({ broadcast: { ...at(6), recovered: true, replay: 0 } });
  world.clock.advance(0);
  assert.equal(world.asked.length, 2);
  await world.answer({ broadcast: at(6) });
  assert.deepEqual(world.shown, []);
  assert.equal(world.details('synced').length, 1);
});

test('every socket of a link has a state of its own', async () => {
  const world = new Stateful();
  const other = world.socket.subscribe('b', 'subscribe-broadcast');
  const shown = [];
  other.addEventListener('message', ({ detail }) => shown.push(detail.data));
  world.ws.welcome(first(5));
  world.ws.receive({ type: 'subscribed', id: 1, channels: first(5) });
  world.ws.receive({ ...message(6), id: 1 });
  assert.deepEqual(shown, ['6']);
  assert.equal(quietly(() => {}).length, 0);
});
