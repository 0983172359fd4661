'use strict';

(() => {
  const socket = WS4Redis.sockets.chat;
  const composer = document.getElementById('composer');
  const recipient = document.getElementById('recipient');
  const text = document.getElementById('text');
  const problem = document.getElementById('problem');
  const { user } = document.getElementById('log').dataset;

  function complain(sentence) {
    problem.textContent = sentence;
    problem.hidden = !sentence;
  }

  /** To everyone: through the socket. */
  function broadcast() {
    const sent = socket.sendJSON({
      from: user,
      to: 'everyone',
      text: text.value,
      at: new Date().toISOString(),
    });
    return sent ? null : 'Not connected; the message was not sent.';
  }

  /** To a user or a group: by a view, which knows for sure who the sender is. */
  async function post(audience, name) {
    const body = new FormData(composer);
    body.set(audience, name);
    body.set('text', text.value);
    try {
      const response = await fetch(composer.action, { method: 'POST', body });
      return response.ok ? null : (await response.json()).error;
    } catch (error) {
      return 'The server cannot be reached; the message was not sent.';
    }
  }

  composer.addEventListener('submit', async (event) => {
    event.preventDefault();
    const [audience, ...name] = recipient.value.split(':');
    const error = audience === 'broadcast' ? broadcast() : await post(audience, name.join(':'));
    complain(error);
    if (!error) {
      text.value = '';
    }
    text.focus();
  });

  socket.addEventListener('open', () => complain(null));
})();
