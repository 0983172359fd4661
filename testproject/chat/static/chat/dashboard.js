'use strict';

(() => {
  const SPAN = 60000; // milliseconds that the chart shows
  const GAP = 3000; // without a number for longer, the line is interrupted
  const STEP = 250; // milliseconds between two drawings
  const LEFT = 28;
  const BOTTOM = 20;

  const socket = WS4Redis.sockets.dashboard;
  const link = Link.watch(socket, document.getElementById('log'));
  const chart = document.getElementById('chart');
  const noNumbers = document.getElementById('no-numbers');
  const figures = {};
  ['value', 'lowest', 'mean', 'highest'].forEach((name) => {
    figures[name] = document.getElementById(name);
  });
  const points = []; // {at, value, recovered}, oldest first
  let waitingSince = Date.now(); // for the next number

  function add(point) {
    let index = points.length;
    while (index > 0 && points[index - 1].at > point.at) {
      index -= 1;
    }
    points.splice(index, 0, point);
  }

  function svg(name, attributes, content) {
    const made = document.createElementNS('http://www.w3.org/2000/svg', name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    if (content !== undefined) {
      made.textContent = content;
    }
    return made;
  }

  /** The points in runs without a gap. */
  function runs() {
    const found = [];
    points.forEach((point, index) => {
      if (index === 0 || point.at - points[index - 1].at > GAP) {
        found.push([]);
      }
      found[found.length - 1].push(point);
    });
    return found;
  }

  function draw() {
    noNumbers.hidden = socket.state !== 'open' || Date.now() - waitingSince < GAP;
    const newest = points.length ? points[points.length - 1].at : 0;
    const end = Math.max(Date.now(), newest);
    while (points.length > 1 && points[1].at < end - SPAN) {
      points.shift();
    }
    const { width, height } = chart.getBoundingClientRect();
    const values = points.map(({ value }) => value);
    const top = Math.max(20, Math.ceil(Math.max(...values, 0) / 20) * 20);
    const floor = height - BOTTOM;
    const x = (at) => LEFT + (width - LEFT) * (1 - (end - at) / SPAN);
    const y = (value) => 8 + (floor - 8) * (1 - value / top);

    const shapes = [];
    for (let mark = 0; mark <= 4; mark += 1) {
      const value = (top * mark) / 4;
      shapes.push(svg('line', { class: 'grid', x1: LEFT, x2: width, y1: y(value), y2: y(value) }));
      shapes.push(svg('text', { x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, value));
    }
    [45, 30, 15].forEach((seconds) => {
      shapes.push(svg('text', { x: x(end - seconds * 1000), y: height - 4, 'text-anchor': 'middle' }, `−${seconds} s`));
    });
    const inside = svg('svg', { x: LEFT, y: 0, width: Math.max(0, width - LEFT), height, viewBox: `${LEFT} 0 ${Math.max(1, width - LEFT)} ${height}` });
    runs().forEach((run) => {
      const line = run.map(({ at, value }) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(' ');
      const first = x(run[0].at).toFixed(1);
      const last = x(run[run.length - 1].at).toFixed(1);
      inside.append(svg('polygon', { class: 'area', points: `${first},${y(0)} ${line} ${last},${y(0)}` }));
      inside.append(svg('polyline', { class: 'curve', points: line }));
    });
    points.filter(({ recovered }) => recovered).forEach(({ at, value }) => {
      inside.append(svg('circle', { class: 'recovered', cx: x(at), cy: y(value), r: 3.5 }));
    });
    chart.setAttribute('viewBox', `0 0 ${Math.max(1, width)} ${Math.max(1, height)}`);
    chart.replaceChildren(...shapes, inside);

    if (values.length) {
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      figures.value.textContent = values[values.length - 1];
      figures.lowest.textContent = Math.min(...values);
      figures.mean.textContent = Math.round(mean);
      figures.highest.textContent = Math.max(...values);
      chart.setAttribute('aria-label', `Visitors in the last minute: between ${figures.lowest.textContent} and ${figures.highest.textContent}, now ${figures.value.textContent}`);
    }
  }

  socket.addEventListener('open', () => {
    waitingSince = Date.now();
  });
  socket.addEventListener('message', ({ detail }) => {
    let message;
    try {
      message = detail.json;
    } catch (error) {
      return;
    }
    if (message && typeof message.visitors === 'number') {
      const { visitors: value, at = Date.now() } = message;
      waitingSince = Date.now();
      add({ at, value, recovered: link.recovering(detail.channel) });
    }
  });

  setInterval(draw, STEP);
  draw();
})();
