import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';
import vm from 'node:vm';

import ByDefault, {
  Socket, connect, sockets,
} from '../../channels_ws4redis/static/js/ws4redis.mjs';
import { Page, source } from './page.mjs';
import { World, WS4Redis, script } from './world.mjs';

/** Objects of the page have its own Object as prototype, which deepEqual would tell apart. */
const plain = (value) => JSON.parse(JSON.stringify(value));

test('a classic script defines one global and does nothing else', () => {
  const page = new Page();
  const before = Object.keys(page.window);
  page.run();
  assert.deepEqual(Object.keys(page.window).filter((name) => !before.includes(name)), ['WS4Redis']);
  assert.equal(page.world.sockets.length, 0);
  page.run({ other: 'attribute' });
  assert.equal(page.world.sockets.length, 0);
});

test('without currentScript (a module) nothing is set up', () => {
  const page = new Page();
  delete page.document.currentScript;
  vm.runInContext(source, page.context);
  assert.equal(typeof page.window.WS4Redis, 'function');
});

test('the global works in a page', () => {
  const page = new Page();
  const { connect: connectInPage, ...rest } = page.run();
  assert.deepEqual(Object.keys(rest), ['Socket', 'sockets', '_setUp']);
  const socket = connectInPage('/ws/foo');
  assert.equal(page.world.ws.url, 'wss://example.com/ws/foo');
  page.window.dispatchEvent(new Event('online'));
  socket.close();
});

test('the ES module is the same code', () => {
  assert.equal(ByDefault, globalThis.WS4Redis);
  assert.equal(ByDefault, WS4Redis);
  assert.equal(Socket, WS4Redis.Socket);
  assert.equal(connect, WS4Redis.connect);
  assert.equal(sockets, WS4Redis.sockets);
  const world = new World();
  assert.equal(connect('ws://x/', { env: world.env }) instanceof Socket, true);
});

test('CommonJS gets the same function', () => {
  const require = createRequire(import.meta.url);
  assert.equal(require(script.pathname), WS4Redis);
});

test('a page that runs the file twice keeps the first', () => {
  const page = new Page();
  const first = page.run();
  assert.equal(page.run(), first);
});

test('the original client on the same page is replaced', () => {
  const page = new Page();
  page.window.WS4Redis = function legacy() {};
  assert.equal(typeof page.run().connect, 'function');
});

test('the file says nothing that Django would take for a reference to another file', () => {
  assert.equal(/\bimport\b|\bexport\b|sourceMappingURL|url\(|@/.test(source), false);
});

test('both files are plain ASCII, so that no charset can spoil them', () => {
  assert.equal(/^[\x00-\x7f]*$/.test(source), true);
});

for (const name of ['constructor', '__proto__', 'toString', 'hasOwnProperty']) {
  test(`a socket may be called ${name}`, () => {
    const page = new Page();
    const { sockets: made } = page.run({ ws4redisUri: '/ws/chat', ws4redisName: name });
    assert.deepEqual(Object.keys(made), [name]);
    page.parsed();
    assert.equal(page.world.sockets.length, 1);
  });
}

test('an element of the page that is called currentScript does not stand for the script', () => {
  const page = new Page();
  const running = { dataset: { ws4redisUri: '/ws/chat', ws4redisName: 'chat' } };
  const clobbered = { dataset: { ws4redisUri: 'wss://evil.example/', ws4redisName: 'chat' } };
  page.window.Document = class {
    get currentScript() {
      return this === page.document ? running : null;
    }
  };
  page.run(clobbered.dataset);
  page.parsed();
  assert.deepEqual(page.world.sockets.map(({ url }) => url), ['wss://example.com/ws/chat']);
});

test('an element of the page that is called WS4Redis does not stand for the client', () => {
  const page = new Page();
  page.window.WS4Redis = { Socket: {}, sockets: {} };
  const { sockets: made } = page.run({ ws4redisUri: '/ws/chat' });
  assert.deepEqual(Object.keys(made), ['default']);
});

test('an element that is called like a method of the document does not stand for it', () => {
  const page = new Page();
  Object.assign(page.document, { dispatchEvent: {} });
  const { sockets: made } = page.run({ ws4redisUri: '/ws/chat' });
  page.parsed();
  assert.deepEqual(page.ready.map(({ name }) => name), ['default']);
  assert.equal(page.world.sockets.length, 1);
  made.default.close();
  assert.deepEqual(page.errors, []);
});

test('an element that is called module does not take the client', () => {
  const page = new Page('complete');
  page.window.module = { exports: {} };
  const { exports } = page.window.module;
  const { sockets: made } = page.run({ ws4redisUri: '/ws/chat' });
  assert.equal(page.world.sockets.length, 1);
  assert.equal(page.window.module.exports, exports);
  made.default.close();
});

test('a script element with data attributes makes a socket', () => {
  const page = new Page();
  const { sockets: made } = page.run({
    ws4redisUri: '/ws/chat?subscribe-broadcast',
    ws4redisName: 'chat',
    ws4redisPositions: '{"broadcast": {"epoch": "a", "offset": 4}}',
    ws4redisOptions: '{"offline": "queue", "queueLimit": 1}',
  });
  assert.deepEqual(Object.keys(made), ['chat']);
  assert.deepEqual(plain(made.chat.positions), { broadcast: { epoch: 'a', offset: 4 } });
  assert.equal(page.world.sockets.length, 0, 'it waits for the scripts of the page');
  assert.deepEqual(page.ready, []);

  let before;
  page.document.addEventListener('ws4redis:ready', () => { before = page.world.sockets.length; });
  page.parsed();
  assert.equal(before, 0);
  assert.deepEqual(page.ready.map(({ name, socket }) => [name, socket]), [['chat', made.chat]]);
  assert.equal(page.world.ws.url, 'wss://example.com/ws/chat?subscribe-broadcast');
  assert.deepEqual([made.chat.send('1'), made.chat.send('2')], [true, false]);
  page.loaded();
  assert.equal(page.ready.length, 1);
  assert.equal(page.world.sockets.length, 1);
  made.chat.close();
});

test('a socket without a name is the default one', () => {
  const page = new Page('interactive');
  const { sockets: made } = page.run({ ws4redisUri: '/ws/chat' });
  page.loaded();
  assert.equal(made.default.state, 'connecting');
  made.default.close();
});

test('a script that runs late connects at once', () => {
  const page = new Page('complete');
  const { sockets: made } = page.run({ ws4redisUri: '/ws/chat' });
  assert.equal(made.default.state, 'connecting');
  assert.equal(page.ready.length, 1);
  made.default.close();
});

test('a page may have several sockets; the last one of a name has it', () => {
  const page = new Page('complete');
  const { sockets: made } = page.run({ ws4redisUri: '/ws/a', ws4redisName: 'a' });
  page.run({ ws4redisUri: '/ws/b', ws4redisName: 'b' });
  assert.deepEqual(Object.keys(made), ['a', 'b']);
  const former = made.a;
  page.run({ ws4redisUri: '/ws/c', ws4redisName: 'a' });
  assert.notEqual(made.a, former);
  assert.equal(page.world.ws.url, 'wss://example.com/ws/c');
  Object.values({ ...made, former }).forEach((socket) => socket.close());
});

test('start: false leaves the opening to the page', () => {
  const page = new Page();
  const { sockets: made } = page.run({ ws4redisUri: '/ws/a', ws4redisOptions: '{"start": false}' });
  page.parsed();
  assert.equal(page.ready.length, 1);
  assert.equal(page.world.sockets.length, 0);
  made.default.open();
  assert.equal(page.world.sockets.length, 1);
  made.default.close();
});

test('attributes that are no JSON are reported and left out', () => {
  const page = new Page('complete');
  const data = { ws4redisUri: '/ws/a', ws4redisPositions: '{', ws4redisOptions: 'x' };
  const { sockets: made } = page.run(data);
  assert.equal(page.errors.length, 2);
  assert.deepEqual(plain(made.default.positions), {});
  made.default.close();
});
