import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { World, WS4Redis } from './world.mjs';

// Shared with the Python side, which tells them by a real server and gives them to the client of the
// torture test. `frames` come from the server; each welcome is the first frame of a new link.
// `hellos` are the positions presented on these links, `positions` the next ones.
const { stories } = JSON.parse(readFileSync(new URL('vectors.json', import.meta.url)));

for (const { name, positions, frames, expect } of stories) {
  test(name, () => {
    const world = new World();
    world.chance = 0;
    const socket = world.connect({ positions });
    const hellos = [];
    for (const frame of frames) {
      if (frame.type === 'welcome') {
        if (hellos.length > 0) {
          world.ws.finish();
          world.clock.advance(500);
        }
        world.ws.accept();
        hellos.push(world.ws.frames[0].positions);
      }
      world.ws.receive(frame);
    }
    assert.deepEqual({
      hellos,
      delivered: world.details('message').map(({ channel, data }) => ({ channel, data })),
      lost: world.details('lost').map(({ channel }) => channel),
      recovered: world.details('recovered'),
      positions: socket.positions,
    }, expect);
  });
}

test('events come in the order of what happened', () => {
  const world = new World();
  const at = { epoch: 'a', offset: 1 };
  world.connect({ positions: { broadcast: at, user: at } });
  world.ws.welcome({
    broadcast: { epoch: 'a', offset: 2, recovered: true, replay: 1 },
    user: { epoch: 'b', offset: 4, recovered: false, replay: 0 },
  });
  world.ws.receive({ type: 'message', channel: 'broadcast', epoch: 'a', offset: 2, data: 'x' });
  const types = world.log.map(([type]) => type);
  assert.deepEqual(types, ['state', 'open', 'lost', 'message', 'recovered']);
  assert.deepEqual(world.details('lost'), [{ channel: 'user', epoch: 'b', offset: 4 }]);
});

test('a listener sees the position of the message that it is given', () => {
  const world = new World();
  const socket = world.connect();
  const seen = [];
  socket.addEventListener('message', () => seen.push(socket.positions.broadcast.offset));
  world.ws.welcome({ broadcast: { epoch: 'a', offset: 1, recovered: null, replay: 0 } });
  world.ws.receive({ type: 'message', channel: 'broadcast', epoch: 'a', offset: 2, data: 'x' });
  assert.deepEqual(seen, [2]);
});

test('positions go in and out by value, with nothing else in them', () => {
  const world = new World();
  const stamped = { broadcast: { epoch: 'a', offset: 1, extra: true }, user: null };
  const socket = world.connect({ positions: stamped });
  stamped.broadcast.offset = 7;
  const copy = socket.positions;
  assert.deepEqual(copy, { broadcast: { epoch: 'a', offset: 1 } });
  copy.broadcast.offset = 9;
  assert.deepEqual(socket.positions, { broadcast: { epoch: 'a', offset: 1 } });
});

test('a loss of a channel without history is told and changes nothing', () => {
  const world = new World();
  const socket = world.connect();
  world.ws.welcome();
  world.ws.receive({ type: 'lost', channel: 'user' });
  const [lost] = world.details('lost');
  assert.deepEqual(lost, { channel: 'user', epoch: undefined, offset: undefined });
  assert.deepEqual(socket.positions, {});
});

// A server in few lines, against which every message must be accounted for.

function random(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

class Channel {
  constructor(size) {
    this.size = size;
    this.ids = 0;
    this.epochs = 0;
    this.identities = new Map();
    this.flush();
  }

  /** The history is lost; until the next message it is an empty one, with an epoch of its own. */
  flush() {
    this.epochs += 1;
    this.epoch = `-${this.epochs}`;
    this.offset = 0;
    this.entries = [];
    this.past = new Map();
    this.identities.set(`${this.epoch} 0`, this.ids);
  }

  /** A restart uses up an offset, as nobody knows what was lost with it. */
  restart() {
    if (this.offset > 0) {
      this.renew();
      this.offset += 1;
      this.identities.set(`${this.epoch} ${this.offset}`, this.ids);
    }
  }

  renew() {
    this.past.set(this.epoch, this.offset);
    this.epochs += 1;
    this.epoch = `e${this.epochs}`;
  }

  /** The newest message at a position, counted over all epochs. */
  identify({ epoch, offset }) {
    return this.identities.get(`${epoch} ${offset}`);
  }

  publish(stored) {
    if (this.offset === 0) {
      this.renew();
    }
    this.ids += 1;
    this.offset += 1;
    const { epoch, offset } = this;
    this.identities.set(`${epoch} ${offset}`, this.ids);
    const data = String(this.ids);
    const message = { type: 'message', channel: 'broadcast', epoch, offset, data };
    if (stored) {
      this.entries = [...this.entries, message].slice(-this.size);
    }
    return message;
  }

  /** The offset up to which a client with this position has all; undefined if that is unknown. */
  known({ epoch, offset }) {
    if (epoch === this.epoch) {
      return offset;
    }
    return this.past.has(epoch) ? Math.min(offset, this.past.get(epoch)) : undefined;
  }

  welcome({ broadcast: position }) {
    const { epoch, offset } = this;
    const seen = position && this.known(position);
    const replay = this.entries
      .filter((entry) => seen === undefined || entry.offset > seen)
      .map((entry) => ({ ...entry, epoch }));
    const recovered = position ? replay.length === offset - seen : null;
    const channel = { epoch, offset, recovered, replay: replay.length };
    const welcome = { type: 'welcome', heartbeat: 4, channels: { broadcast: channel } };
    return [welcome, ...replay, { type: 'ping' }];
  }

  lost() {
    const { epoch, offset } = this;
    return { type: 'lost', channel: 'broadcast', epoch, offset };
  }
}

/** Of a hundred steps, how many are below which. */
const STEPS = [[40, 'publish'], [86, 'deliver'], [96, 'cut'], [98, 'restart'], [100, 'flush']];

function simulate(seed) {
  const below = random(seed);
  const world = new World();
  world.chance = 0;
  const channel = new Channel(1 + below(5));
  const socket = world.connect();
  let pipe = null;

  const step = {
    publish() {
      const message = channel.publish(below(8) > 0);
      if (pipe) {
        pipe.push(message);
      }
    },
    deliver() {
      if (pipe === null) {
        world.ws.accept();
        pipe = channel.welcome(world.ws.frames[0].positions);
      } else if (pipe.length > 0) {
        world.ws.receive(pipe.shift());
      }
    },
    cut() {
      if (pipe !== null) {
        pipe = null;
        world.ws.finish();
        world.clock.advance(500);
      }
    },
    flush() {
      channel.flush();
      if (pipe) {
        pipe.push(channel.lost());
      }
    },
    restart() {
      const { epoch } = channel;
      channel.restart();
      if (pipe && channel.epoch !== epoch) {
        pipe.push(channel.lost());
      }
    },
  };
  for (let steps = 0; steps < 200; steps += 1) {
    const dice = below(100);
    const [, name] = STEPS.find(([below]) => dice < below);
    step[name]();
  }
  step.deliver();
  pipe.push({ type: 'ping' });
  while (pipe.length > 0) {
    step.deliver();
  }
  return { world, socket, channel };
}

test('a thousand random lives', () => {
  for (let seed = 1; seed <= 1000; seed += 1) {
    const { world, socket, channel } = simulate(seed);
    let last = 0;
    let excused = 0;
    let begun = 0;
    const account = (id) => {
      for (let missing = last + 1; missing < id; missing += 1) {
        assert.equal(missing <= excused, true, `seed ${seed}: ${missing} is missing silently`);
      }
    };
    for (const [type, detail] of world.log) {
      if (type === 'lost') {
        excused = channel.identify(detail);
      } else if (type === 'open' && detail.channels.broadcast.recovered === null) {
        begun += 1;
        excused = channel.identify(detail.channels.broadcast);
      } else if (type === 'message') {
        const id = Number(detail.data);
        assert.equal(id > last, true, `seed ${seed}: ${id} after ${last}`);
        account(id);
        last = id;
      }
    }
    account(channel.ids + 1);
    // A client that was told how much follows has a position from then on.
    assert.equal(begun, 1);
    const { epoch, offset } = channel;
    assert.deepEqual(socket.positions.broadcast, { epoch, offset }, `seed ${seed}`);
  }
});
