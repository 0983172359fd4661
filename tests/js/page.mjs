// A browser window that runs the file as a classic script.

import { readFileSync } from 'node:fs';
import vm from 'node:vm';

import { World, script } from './world.mjs';

export const source = readFileSync(script, 'utf8');

/** A browser window that runs the file as a classic script. */
export class Page {
  constructor(readyState = 'loading') {
    this.world = new World();
    this.errors = [];
    this.document = new EventTarget();
    Object.assign(this.document, { readyState, hidden: false, currentScript: null });
    this.window = Object.assign(new EventTarget(), {
      document: this.document,
      location: new URL('https://example.com/page/'),
      WebSocket: this.world.WebSocket,
      console: { error: (error) => this.errors.push(error), warn() {} },
      setTimeout: this.world.clock.setTimeout,
      clearTimeout: this.world.clock.clearTimeout,
      EventTarget,
      CustomEvent,
      URL,
      atob,
    });
    this.context = vm.createContext(this.window);
    this.ready = [];
    this.document.addEventListener('ws4redis:ready', ({ detail }) => this.ready.push(detail));
  }

  run(dataset) {
    this.document.currentScript = dataset ? { dataset } : null;
    vm.runInContext(source, this.context, { filename: script.href });
    this.document.currentScript = null;
    return this.window.WS4Redis;
  }

  parsed() {
    this.document.readyState = 'interactive';
    this.window.dispatchEvent(new Event('DOMContentLoaded'));
  }

  loaded() {
    this.document.readyState = 'complete';
    this.window.dispatchEvent(new Event('load'));
  }
}
