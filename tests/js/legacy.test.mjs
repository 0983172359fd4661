import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World, WS4Redis, quietly } from './world.mjs';

const jQuery = Object.assign(() => { throw new Error('not needed'); }, {
  extend: Object.assign,
  type: (value) => typeof value,
  Deferred: () => ({ resolve() {}, reject() {} }),
});

function recorder(world) {
  const calls = [];
  const record = (name) => (...args) => calls.push([name, ...args]);
  const options = { uri: 'ws://example.com/ws/foo', env: world.env };
  for (const name of ['connecting', 'connected', 'disconnected', 'receive_message']) {
    options[name] = record(name);
  }
  return { calls, options };
}

for (const [name, create] of [
  ['with new and jQuery', (options) => new WS4Redis(options, jQuery)],
  ['with new', (options) => new WS4Redis(options)],
  ['with jQuery', (options) => WS4Redis(options, jQuery)],
  ['plainly', (options) => WS4Redis(options)],
  ['as a property of something else', (options) => ({ WS4Redis }).WS4Redis(options)],
]) {
  test(`called ${name}`, () => {
    const world = new World();
    const { calls, options } = recorder(world);
    const client = create(options);
    assert.equal(client instanceof WS4Redis, true);
    assert.deepEqual(world.ws.args, ['ws://example.com/ws/foo'], 'no subprotocol');
    assert.deepEqual(calls, [['connecting']]);
    assert.equal(client.is_connecting(), true);

    world.ws.accept();
    assert.deepEqual(calls, [['connecting'], ['connected']]);
    assert.equal(client.is_connected(), true);
    world.ws.receive('hello');
    world.ws.receive('');
    client.send_message('hi');
    assert.deepEqual(world.ws.sent, ['hi']);

    world.ws.finish(1006);
    assert.deepEqual(calls.slice(2), [
      ['receive_message', 'hello'],
      ['receive_message', ''],
      ['disconnected', { type: 'close', code: 1006, reason: '', wasClean: false }],
    ]);
    assert.equal(client.is_closed(), true);
    world.clock.advance(1250);
    assert.equal(calls.at(-1)[0], 'connecting');
    assert.equal(world.sockets.length, 2);
    client.close();
  });
}

test('a missing address throws', () => {
  for (const options of [{}, { uri: undefined }, { uri: null }, undefined]) {
    assert.throws(() => WS4Redis(options), new Error('No Websocket URI in options'));
    assert.throws(() => new WS4Redis(options), new Error('No Websocket URI in options'));
  }
});

test('connecting is called before the WebSocket is made', () => {
  const world = new World();
  let made;
  world.legacy({ connecting: () => { made = world.sockets.length; } });
  assert.equal(made, 0);
  assert.equal(world.sockets.length, 1);
});

test('unknown options and options of the wrong type are ignored', () => {
  const world = new World();
  const client = world.legacy({
    on_open: () => assert.fail(),
    type: 'x',
    host: 7,
    connecting: 'x',
    connected: null,
    disconnected: {},
    receive_message: 1,
  });
  world.ws.accept();
  world.ws.receive('hello');
  world.ws.finish();
  assert.equal(client.get_state(), 3);
});

test('the options are read once', () => {
  const world = new World();
  const received = [];
  const receive_message = (data) => received.push(data);
  const options = { uri: 'ws://example.com/', env: world.env, receive_message };
  WS4Redis(options);
  delete options.receive_message;
  world.ws.accept();
  world.ws.receive('hello');
  assert.deepEqual(received, ['hello']);
});

test('the state is that of the WebSocket, and the methods work without their object', () => {
  const world = new World();
  const client = world.legacy();
  const { get_state, is_connecting, is_connected, is_closing, is_closed } = client;
  const { send_message, close } = client;
  const states = () => [get_state(), is_connecting(), is_connected(), is_closing(), is_closed()];
  assert.deepEqual(states(), [0, true, false, false, false]);
  assert.throws(() => send_message('early'), /InvalidStateError/);
  world.ws.accept();
  assert.deepEqual(states(), [1, false, true, false, false]);
  close();
  assert.deepEqual(states(), [2, false, false, true, false]);
  world.ws.finish();
  assert.deepEqual(states(), [3, false, false, false, true]);
  send_message('late');
});

test('several clients on one page know nothing of each other', () => {
  const world = new World();
  const received = [];
  const clients = ['a', 'b'].map((name) => world.legacy({
    uri: `ws://example.com/ws/${name}`,
    receive_message: (data) => received.push([name, data]),
  }));
  world.sockets.forEach((ws) => ws.accept());
  world.sockets[0].receive('1');
  world.sockets[1].receive('2');
  clients[0].close();
  assert.deepEqual(received, [['a', '1'], ['b', '2']]);
  assert.deepEqual(clients.map((client) => client.is_connected()), [false, true]);
});

test('a heartbeat goes out every 5 s and none that comes in is handed on', () => {
  const world = new World();
  const received = [];
  world.legacy({ heartbeat_msg: '--heartbeat--', receive_message: (data) => received.push(data) });
  world.ws.accept();
  world.clock.advance(4999);
  assert.deepEqual(world.ws.sent, []);
  for (let times = 1; times <= 10; times += 1) {
    world.clock.advance(times === 1 ? 1 : 5000);
    assert.deepEqual(world.ws.sent, Array(times).fill('--heartbeat--'));
    world.ws.receive('--heartbeat--');
  }
  assert.deepEqual(received, []);
});

test('more than 3 missed heartbeats close the link and bring a new one', () => {
  const world = new World();
  const { calls, options } = recorder(world);
  const client = WS4Redis({ ...options, heartbeat_msg: '#' });
  world.ws.accept();
  world.clock.advance(19999);
  assert.equal(client.is_connected(), true);
  assert.deepEqual(world.ws.sent, ['#', '#', '#']);
  world.clock.advance(1);
  assert.equal(world.ws.readyState, 2);
  assert.equal(client.is_closed(), true);
  assert.deepEqual(calls.at(-1), ['disconnected', { code: 1006, reason: 'No answer' }]);
  world.clock.advance(1250);
  assert.equal(world.sockets.length, 2);
  world.ws.accept();
  world.clock.advance(5000);
  assert.deepEqual(world.ws.sent, ['#']);
});

test('no heartbeat is left over when the link is gone', () => {
  const world = new World();
  world.legacy({ heartbeat_msg: '#' });
  world.ws.accept();
  world.ws.finish();
  assert.deepEqual(world.clock.delays, [1250]);
});

test('anything that arrives shows that the link is alive', () => {
  const world = new World();
  const client = world.legacy({ heartbeat_msg: '#' });
  world.ws.accept();
  for (let times = 0; times < 10; times += 1) {
    world.clock.advance(15000);
    world.ws.receive('news');
  }
  assert.equal(client.is_connected(), true);
});

test('without a heartbeat_msg there is no heartbeat', () => {
  for (const heartbeat_msg of [undefined, null, '']) {
    const world = new World();
    const received = [];
    const client = world.legacy({ heartbeat_msg, receive_message: (data) => received.push(data) });
    world.ws.accept();
    world.ws.receive('');
    world.show();
    world.clock.advance(1e6);
    assert.deepEqual(world.ws.sent, []);
    assert.deepEqual(received, ['']);
    assert.equal(client.is_connected(), true);
  }
});

test('a page that comes to the front probes the link', () => {
  const world = new World();
  const client = world.legacy({ heartbeat_msg: '#' });
  world.ws.accept();
  world.show();
  assert.deepEqual(world.ws.sent, ['#']);
  world.ws.receive('#');
  world.clock.advance(5000);
  assert.equal(client.is_connected(), true);
  world.show();
  world.clock.advance(5000);
  assert.equal(client.is_closed(), true);
  world.window.dispatchEvent(new Event('online'));
  assert.equal(client.is_connecting(), true);
});

test('close stops reconnecting and all timers, and is still told by disconnected', () => {
  for (const prepare of [
    () => {},
    (world) => world.ws.accept(),
    (world) => { world.ws.accept(); world.ws.finish(); },
  ]) {
    const world = new World();
    const { calls, options } = recorder(world);
    const client = WS4Redis({ ...options, heartbeat_msg: '#' });
    prepare(world);
    client.close();
    client.close();
    assert.deepEqual(world.clock.delays, []);
    world.ws.finish(1005);
    world.window.dispatchEvent(new Event('online'));
    world.clock.advance(1e6);
    assert.equal(calls.filter(([name]) => name === 'disconnected').length, 1);
    assert.equal(world.sockets.length, 1);
  }
});

test('close inside disconnected stops reconnecting', () => {
  const world = new World();
  const client = world.legacy({ disconnected: () => client.close() });
  world.ws.finish();
  assert.deepEqual(world.clock.delays, []);
});

test('a callback that throws stops nothing', () => {
  const world = new World();
  const fail = () => { throw new Error('of the page'); };
  let calm = true;
  const client = world.legacy({
    heartbeat_msg: '#',
    connecting: () => calm || fail(),
    connected: fail,
    disconnected: fail,
    receive_message: fail,
  });
  calm = false;
  assert.throws(() => world.ws.accept(), /of the page/);
  assert.throws(() => world.ws.receive('x'), /of the page/);
  assert.throws(() => world.ws.finish(), /of the page/);
  assert.throws(() => world.clock.advance(1250), /of the page/);
  assert.equal(client.is_connecting(), true);
});

test('a close code that means "do not come back" is heeded', () => {
  for (const code of [1008, 4500]) {
    const world = new World();
    world.legacy();
    world.ws.accept();
    world.ws.finish(code);
    assert.deepEqual(world.clock.delays, []);
  }
});

test('an address that cannot be used is reported and tried again', () => {
  const world = new World();
  const { calls, options } = recorder(world);
  const messages = quietly(() => WS4Redis({ ...options, uri: 'http://[' }));
  assert.equal(messages.length, 1);
  assert.deepEqual(calls.map(([name]) => name), ['connecting', 'disconnected']);
  assert.deepEqual(world.clock.delays, [1250]);
});
