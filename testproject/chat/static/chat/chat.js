'use strict';

(() => {
  const socket = WS4Redis.sockets.chat;
  const log = document.getElementById('log');
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

  socket.addEventListener('message', ({ detail }) => {
    let message;
    try {
      message = detail.json;
    } catch (error) {
      message = null;
    }
    // Whoever has logged in may publish here, with any program.
    if (!message || typeof message.text !== 'string') {
      message = { from: 'someone', text: String(detail.data) };
    }
    show(detail.channel, message);
  });

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
})();
