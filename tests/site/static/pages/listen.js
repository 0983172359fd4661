'use strict';

// What the page's socket has got, for a test to look at.
const socket = WS4Redis.sockets.page;
const messages = []; // [label, text]
const seenHidden = []; // the texts of those that came while nobody saw the page
const events = []; // [type, detail]

socket.addEventListener('message', ({ detail: { channel, data } }) => {
  messages.push([channel, data]);
  if (document.hidden) {
    seenHidden.push(data);
  }
});
['open', 'recovered', 'lost', 'close'].forEach((type) => {
  socket.addEventListener(type, ({ detail }) => events.push([type, detail]));
});
