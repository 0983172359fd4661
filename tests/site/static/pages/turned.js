'use strict';

// What the sockets of all pages that this document has shown have got, for a test to look at.
const loaded = Math.random(); // another one if the document was loaded anew
const links = []; // the WebSockets
const sent = []; // the frames of the client
const heard = {}; // by name, the texts
const states = {}; // by name

window.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    links.push(this);
  }

  send(data) {
    sent.push(...[JSON.parse(data)].flat());
    super.send(data);
  }
};

document.addEventListener('ws4redis:ready', ({ detail: { name, socket } }) => {
  if (heard[name]) {
    return;
  }
  heard[name] = [];
  states[name] = [];
  socket.addEventListener('message', ({ detail }) => {
    heard[name].push(detail.data);
    document.getElementById('list').append(`${detail.data}; `);
  });
  socket.addEventListener('state', ({ detail: { state } }) => {
    states[name].push(state);
    sessionStorage.setItem('states', JSON.stringify(states));
  });
});
