import WS4Redis, { connect, Socket, sockets } from '../js/ws4redis.mjs';

const texts = [];
const socket = connect('/ws/page?subscribe-broadcast&publish-broadcast&echo');
socket.addEventListener('message', ({ detail }) => texts.push(detail.json));
socket.addEventListener('open', () => socket.sendJSON({ from: 'a module' }));

globalThis.page = {
  texts,
  socket,
  same: socket instanceof Socket && Socket === WS4Redis.Socket && sockets === WS4Redis.sockets,
};
