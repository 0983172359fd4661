// Random lives of a page with several sockets, on a server in few lines. Whatever happens to one of
// them, each gets what a WebSocket of its own would have got.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { World, quietly } from './world.mjs';

function random(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** The history of a facility, of which the last messages are stored. */
class Facility {
  offset = 0;

  constructor(name, size) {
    Object.assign(this, { name, size });
  }

  message(offset, id) {
    const data = `${this.name} ${offset}`;
    return { type: 'message', id, channel: 'broadcast', epoch: 'a', offset, data };
  }

  /** What a subscription is told first, and what follows. */
  begin({ broadcast: known } = {}, id) {
    const from = Math.max(this.offset - this.size, known ? known.offset : 0);
    const replay = Array.from(
      { length: this.offset - from }, (_, index) => this.message(from + index + 1, id),
    );
    const recovered = known ? from === known.offset : null;
    const told = { epoch: 'a', offset: this.offset, recovered, replay: replay.length };
    return [{ broadcast: told }, replay];
  }
}

/** The server's end of a page's link. Answers wait in a pipe for each subscription. */
class Server {
  constructor(world, facilities) {
    Object.assign(this, { world, facilities });
    this.gone();
  }

  gone() {
    this.pipes = new Map(); // by id; undefined is the one of the address
    this.refusals = [];
    this.read = 0;
    this.used = new Set();
    this.late = []; // what was on its way to a subscription that is over
    this.ws = null;
  }

  open(id, facility, positions, type) {
    const [channels, replay] = facility.begin(positions, id);
    this.pipes.set(id, { facility, queue: [{ type, heartbeat: 1e6, id, channels }, ...replay] });
  }

  /** Take in what the client has sent. */
  hear() {
    if (this.ws !== this.world.ws) {
      this.gone();
      this.ws = this.world.ws;
    }
    if (this.ws.readyState === 0) {
      this.ws.accept();
    }
    for (const frame of this.ws.frames.slice(this.read)) {
      this.read += 1;
      const { type, id, positions } = frame;
      if (type === 'hello') {
        const name = new URL(this.ws.url).pathname.slice(4);
        this.open(undefined, this.facilities[name], positions, 'welcome');
      } else if (type === 'subscribe') {
        assert.equal(this.used.has(id), false, 'an id is used again');
        this.used.add(id);
        this.open(id, this.facilities[frame.facility], positions, 'subscribed');
      } else if (type === 'unsubscribe') {
        this.late = this.pipes.get(id)?.queue ?? [];
        this.pipes.delete(id);
      }
    }
  }

  /** Send the next frame of one of the pipes; the welcome is the first of all. */
  deliver(below) {
    const full = [...this.pipes.values()].filter(({ queue }) => queue.length > 0);
    const chosen = full.find(({ queue }) => queue[0].type === 'welcome') ?? full[below(full.length)];
    if (chosen) {
      this.ws.receive(chosen.queue.shift());
    }
  }

  publish(facility) {
    facility.offset += 1;
    for (const [id, pipe] of this.pipes) {
      if (pipe.facility === facility) {
        pipe.queue.push(facility.message(facility.offset, id));
      }
    }
  }

  end(id, code) {
    this.pipes.delete(id);
    this.ws.receive({ type: 'ended', id, code, reason: '' });
  }
}

// WS4REDIS_TEST_LIVES=10000 makes it thorough.
const LIVES = Number(process.env.WS4REDIS_TEST_LIVES ?? 200);

const NAMES = ['a', 'b', 'c', 'd'];
const STEPS = [
  [45, 'publish'], [78, 'deliver'], [83, 'toggle'], [86, 'turn'], [91, 'end'], [95, 'cut'],
  [98, 'wait'], [100, 'late'],
];

function live(seed) {
  const below = random(seed);
  const world = new World();
  world.chance = 0;
  const facilities = Object.fromEntries(
    NAMES.map((name) => [name, new Facility(name, 1 + below(8))]),
  );
  const sockets = {};
  const log = Object.fromEntries(NAMES.map((name) => [name, []]));
  for (const name of NAMES) {
    const options = { facility: name, flags: 'subscribe-broadcast', env: world.env };
    sockets[name] = sockets.a
      ? sockets.a.subscribe(name, options.flags)
      : world.connect(options, `wss://example.com/ws/${name}`);
    world.listen(sockets[name], (type, detail) => log[name].push([type, detail]));
  }
  const server = new Server(world, facilities);
  const one = () => NAMES[below(NAMES.length)];
  const step = {
    publish: () => server.publish(facilities[one()]),
    deliver: () => server.deliver(below),
    toggle() {
      const socket = sockets[one()];
      socket[socket.state === 'closed' ? 'open' : 'close']();
    },
    /** Another page takes the place of this one; its state is not newer than the server's. */
    turn() {
      const name = one();
      const offset = below(facilities[name].offset + 1);
      log[name].push(['turn', { offset }]);
      sockets[name]._show({ broadcast: { epoch: 'a', offset } });
    },
    end() {
      // Only those that are open; the last one would take the link with it.
      const open = [...server.pipes].filter(([, { queue }]) => queue[0]?.channels === undefined);
      if (open.length > 1) {
        server.end(open[below(open.length)][0], below(2) ? 1013 : 4501);
      }
    },
    cut() {
      world.ws.finish();
    },
    wait: () => world.clock.advance(500),
    late() {
      server.late.splice(0).forEach((frame) => world.ws.receive(frame));
    },
  };
  quietly(() => {
    for (let steps = 0; steps < 300; steps += 1) {
      if (world.ws.readyState < 2) {
        server.hear();
      }
      const dice = below(100);
      step[STEPS.find(([limit]) => dice < limit)[1]]();
    }
    // In the end everybody is there, and gets everything.
    for (let rounds = 0; rounds < 500; rounds += 1) {
      NAMES.forEach((name) => sockets[name].open());
      if (world.ws.readyState < 2) {
        server.hear();
        server.deliver(below);
      }
      if (rounds % 10 === 0) {
        world.clock.advance(500);
      }
    }
  });
  return { sockets, facilities, log, server };
}

test('two hundred random lives of a page', () => {
  for (let seed = 1; seed <= LIVES; seed += 1) {
    const { sockets, facilities, log, server } = live(seed);
    assert.deepEqual([...server.pipes.values()].map(({ facility: { name } }) => name).sort(), NAMES);
    for (const name of NAMES) {
      const { offset: top } = facilities[name];
      let last = null; // of what has been delivered or excused
      for (const [type, detail] of log[name]) {
        const { recovered, replay, offset } = (type === 'open' && detail.channels.broadcast) || {};
        if (recovered === null) {
          assert.equal(last, null, `seed ${seed}: ${name} has forgotten where it was`);
          last = offset - replay;
        } else if (type === 'turn') {
          last = detail.offset;
        } else if (type === 'lost') {
          // Up to here something is missing; what is still stored of it follows.
          last = Math.max(last, detail.offset - facilities[name].size);
        } else if (type === 'message') {
          assert.equal(detail.data, `${name} ${detail.offset}`, `seed ${seed}`);
          assert.equal(detail.offset, last + 1, `seed ${seed}: ${name} ${detail.offset} after ${last}`);
          last = detail.offset;
        }
      }
      assert.equal(sockets[name].state, 'open', `seed ${seed}: ${name}`);
      assert.equal(last, top, `seed ${seed}: ${name}`);
      assert.deepEqual(sockets[name].positions, { broadcast: { epoch: 'a', offset: top } });
    }
  }
});
