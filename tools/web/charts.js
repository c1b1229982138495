// Charts as SVG, and the same numbers as tables.
const SVG = 'http://www.w3.org/2000/svg';

function shape(svg, tag, attributes, content) {
  const e = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
  if (content !== undefined) e.textContent = content;
  svg.append(e);
}

function ticksBetween(low, high) {
  const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(x => x * power).find(x => x >= raw);
  const ticks = [];
  for (let y = Math.ceil(low / step) * step; y <= high + step / 1e6; y += step) ticks.push(+y.toPrecision(6));
  return ticks;
}

// lines: {name, style, points: [[x, y], ...]}; parts: {from, to, name} along the x axis.
function drawChart(svg, {lines, parts, low, high, label}) {
  const width = Math.max(260, svg.clientWidth), height = 230, left = 38, right = 10, top = 26, bottom = 26;
  const end = parts.length ? parts[parts.length - 1].to : 1;
  const px = x => left + x / end * (width - left - right);
  const py = y => height - bottom - (y - low) / (high - low) * (height - top - bottom);
  svg.replaceChildren();
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.setAttribute('aria-label', label);
  for (const y of ticksBetween(low, high)) {
    shape(svg, 'line', {x1: left, x2: width - right, y1: py(y), y2: py(y), class: 'grid'});
    shape(svg, 'text', {x: left - 8, y: py(y) + 4, class: 'tick', 'text-anchor': 'end'}, y);
  }
  for (const {from, to, name} of parts) {
    if (from > 0) shape(svg, 'line', {x1: px(from), x2: px(from), y1: top - 12, y2: height - bottom, class: 'divide'});
    shape(svg, 'text', {x: px(from) + 6, y: 14, class: 'part'}, name);
    shape(svg, 'text', {x: px(to), y: height - 8, class: 'tick', 'text-anchor': 'end'}, `${to - from} rounds`);
  }
  for (const {style, points} of lines) {
    if (!points.length) continue;
    const corners = points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`);
    shape(svg, 'polyline', {points: corners.join(' '), class: `line ${style}`});
    const [x, y] = points[points.length - 1];
    shape(svg, 'circle', {cx: px(x), cy: py(y), r: 3.5, class: `dot ${style}`});
  }
}

function fillTable(table, head, rows) {
  const names = head.map(x => element('th', {scope: 'col'}, x));
  const lines = rows.map(([first, ...rest]) =>
    element('tr', {}, element('th', {scope: 'row'}, first), ...rest.map(x => element('td', {}, x))));
  table.replaceChildren(element('thead', {}, element('tr', {}, ...names)), element('tbody', {}, ...lines));
}

// The course of a tuning run: losses of every step and scores after every epoch.
class Course {
  constructor() {
    this.epochs = [0, 10, 10];                    // of each stage, as soon as it is known
    this.losses = [[], [], []];                   // [stage][step]
    this.steps = [0, 1, 1];
    this.means = [];                              // {who, epoch, loss}
    this.scores = [];                             // {x, who, epoch, base, novel, h}
  }
  get parts() {
    const first = this.epochs[1];
    return [{from: 0, to: first, name: 'CoOp'}, {from: first, to: first + this.epochs[2], name: 'FVG-PT'}];
  }
  at(who, epoch) { return (who === 2 ? this.epochs[1] : 0) + epoch; }

  // The mean of the last steps, a point for every pixel or two.
  smooth(who) {
    const y = this.losses[who], window = Math.max(1, Math.round(this.steps[who] / 20)), points = [];
    const stride = Math.max(1, Math.round(this.steps[who] / 120));
    let sum = 0;
    for (let i = 0; i < y.length; i++) {
      sum += y[i] - (i >= window ? y[i - window] : 0);
      if ((i + 1) % stride === 0)
        points.push([this.at(who, (i + 1) / this.steps[who] * this.epochs[who]), sum / Math.min(window, i + 1)]);
    }
    return points;
  }
}

function drawLoss(course, svg, table) {
  const lines = [1, 2].map(who => ({style: who === 1 ? 'quiet' : 'accent', points: course.smooth(who)}));
  const high = 1.08 * Math.max(0.1, ...lines.flatMap(l => l.points.map(p => p[1])));
  const last = course.means[course.means.length - 1];
  const said = last && `Loss after round ${last.epoch} of ${NAMES[last.who]}: ${last.loss.toFixed(3)}`;
  drawChart(svg, {lines, parts: course.parts, low: 0, high, label: said || 'No tuning yet'});
  fillTable(table, ['Round', 'Loss'], course.means.map(m => [`${NAMES[m.who]}, ${m.epoch}`, m.loss.toFixed(4)]));
}

const SHOWN = [{key: 'base', name: 'taught', style: 'ink'}, {key: 'novel', name: 'new', style: 'dashed'},
  {key: 'h', name: 'H', style: 'accent'}];

function legendOf({key, name, style}, last) {
  const sample = document.createElementNS(SVG, 'svg');
  sample.setAttribute('viewBox', '0 0 24 8');
  sample.setAttribute('aria-hidden', 'true');
  shape(sample, 'line', {x1: 0, x2: 24, y1: 4, y2: 4, class: `line ${style}`});
  return element('span', {}, sample, last ? `${name} ${last[key].toFixed(1)}` : name);
}

function drawAccuracy({scores, parts}) {
  const values = scores.flatMap(p => SHOWN.map(({key}) => p[key]));
  const low = Math.max(0, 5 * Math.floor(Math.min(70, ...values) / 5 - 0.2));
  const high = Math.min(100, 5 * Math.ceil(Math.max(85, ...values) / 5 + 0.2));
  const lines = SHOWN.map(({key, style}) => ({style, points: scores.map(p => [p.x, p[key]])}));
  const last = scores[scores.length - 1];
  const said = last && `Percent right: ${SHOWN.map(({key, name}) => `${name} ${last[key].toFixed(2)}`).join(', ')}`;
  drawChart($('accuracy'), {lines, parts, low, high, label: said || 'No test yet'});
  $('legend').replaceChildren(...SHOWN.map(x => legendOf(x, last)));

  const rows = scores.map(p => [p.who ? `${NAMES[p.who]}, ${p.epoch}` : NAMES[0],
    ...SHOWN.map(({key}) => p[key].toFixed(2))]);
  fillTable($('accuracy-table'), ['Round', ...SHOWN.map(({name}) => name)], rows);
}
