/*
 * What both pages show of their socket: its state, a button that cuts it, and what came of the cut.
 *
 * Link.watch(socket, log) does that, and returns an object whose `recovering(label)` tells whether a
 * message of this channel, which is just arriving, was missed.
 */
'use strict';

const Link = (() => {
  const CUT = 10; // seconds
  const TEXTS = {
    connecting: 'Connecting…',
    open: 'Connected',
    waiting: 'Offline, will try again',
    closed: 'Disconnected',
  };

  function note(log, text, kind) {
    const item = document.createElement('p');
    item.className = `note ${kind || ''}`;
    item.textContent = text;
    log.append(item);
    log.scrollTop = log.scrollHeight;
  }

  function watch(socket, log) {
    const box = document.getElementById('link');
    const text = document.getElementById('link-state');
    const button = document.getElementById('link-cut');
    const recovering = new Set();
    let missed = 0;
    let wasOpen = false;
    let cutUntil = 0;

    function show() {
      const left = Math.ceil((cutUntil - Date.now()) / 1000);
      const cut = socket.state === 'waiting' && left > 0;
      box.dataset.state = socket.state;
      // Not `disabled`, which would take the focus from whoever has just pressed it.
      button.setAttribute('aria-disabled', socket.state !== 'open');
      button.textContent = cut ? `Back in ${left} s` : `Cut the link for ${CUT} s`;
      // Only what has changed is read out, so the countdown is on the button alone.
      const now = cut ? 'The link is cut' : TEXTS[socket.state];
      if (text.textContent !== now) {
        text.textContent = now;
      }
      if (cut) {
        setTimeout(show, 250);
      }
    }

    function settled() {
      if (recovering.size > 0) {
        return;
      }
      if (missed === 0) {
        note(log, 'Connected again; nothing was missed.', 'good');
      } else {
        note(log, `Connected again; ${missed} missed ${missed === 1 ? 'message' : 'messages'} recovered.`, 'good');
      }
    }

    button.addEventListener('click', () => {
      if (socket.state !== 'open') {
        return;
      }
      cutUntil = Date.now() + CUT * 1000;
      socket.reconnect(CUT * 1000);
      note(log, 'The link is cut. What is published now arrives later.');
    });
    socket.addEventListener('state', show);
    socket.addEventListener('close', () => {
      recovering.clear();
    });
    socket.addEventListener('open', ({ detail: { channels } }) => {
      missed = 0;
      Object.entries(channels).forEach(([label, { recovered }]) => {
        if (recovered && wasOpen) {
          recovering.add(label);
        }
      });
      wasOpen = true;
    });
    socket.addEventListener('recovered', ({ detail: { channel, messages } }) => {
      if (recovering.delete(channel)) {
        missed += messages;
        settled();
      }
    });
    socket.addEventListener('lost', () => {
      note(log, 'Some messages were missed for good.', 'bad');
    });
    show();
    return { recovering: (label) => recovering.has(label) };
  }

  return { watch };
})();
