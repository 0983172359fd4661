'use strict';

(() => {
  const socket = WS4Redis.sockets.chat;
  const log = document.getElementById('log');
  const composer = document.getElementById('composer');
  const recipient = document.getElementById('recipient');
  const text = document.getElementById('text');
  const problem = document.getElementById('problem');
  const user = log.dataset.user;
  const link = Link.watch(socket, log);
  const clock = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit' });

  function element(name, className, content) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = content;
    return made;
  }

  function audienceOf(channel, message) {
    if (channel === 'broadcast') {
      return null;
    }
    if (channel === 'user') {
      return message.to === user ? 'only you' : `to ${message.to}`;
    }
    return channel.replace(/^group:/, '');
  }

  function show(channel, message) {
    const own = message.from === user;
    const recovered = link.recovering(channel);
    const told = new Date(message.at);
    const at = Number.isNaN(told.getTime()) ? new Date() : told;
    const item = document.createElement('article');
    item.className = `message${own ? ' own' : ''}${recovered ? ' recovered' : ''}`;
    item.dataset.at = at.toISOString();

    const header = document.createElement('header');
    header.append(element('span', 'sender', own ? 'You' : message.from));
    const audience = audienceOf(channel, message);
    if (audience) {
      header.append(element('span', 'badge', audience));
    }
    const time = element('time', '', clock.format(at));
    time.dateTime = at.toISOString();
    header.append(time);
    if (recovered) {
      header.append(element('span', 'recovery', 'recovered'));
    }
    item.append(header, element('div', 'text', message.text));
    insert(item);
  }

  function nearEnd() {
    return log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  }

  /** The channels are replayed one after the other; the reader wants one course of time. */
  function insert(item) {
    const atEnd = nearEnd();
    let after = log.lastElementChild;
    while (after && after.dataset.at > item.dataset.at) {
      after = after.previousElementSibling;
    }
    if (after) {
      after.after(item);
    } else {
      log.prepend(item);
    }
    if (atEnd || item.classList.contains('own')) {
      log.scrollTop = log.scrollHeight;
    }
  }

  function complain(sentence) {
    problem.textContent = sentence;
    problem.hidden = !sentence;
  }

  socket.addEventListener('message', ({ detail }) => {
    let message;
    try {
      message = detail.json;
    } catch (error) {
      message = null;
    }
    // Anyone may publish on this facility, with any program.
    if (!message || typeof message.text !== 'string') {
      message = { from: 'someone', text: String(detail.data) };
    }
    show(detail.channel, message);
  });

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

  socket.addEventListener('open', () => complain(null));

  // The end stays in sight when a phone's keyboard opens or the window changes.
  let end = true;
  log.addEventListener('scroll', () => {
    end = nearEnd();
  });
  new ResizeObserver(() => {
    if (end) {
      log.scrollTop = log.scrollHeight;
    }
  }).observe(log);

  composer.addEventListener('submit', async (event) => {
    event.preventDefault();
    const [audience, ...name] = recipient.value.split(':');
    const error = audience === 'broadcast' ? broadcast() : await post(audience, name.join(':'));
    complain(error);
    if (!error) {
      text.value = '';
      // What the sender has written should be seen, wherever they have scrolled to.
      log.scrollTop = log.scrollHeight;
    }
    text.focus();
  });
})();
