// The page of `make web`: asks the worker, and shows what comes of it.
'use strict';

const $ = id => document.getElementById(id);
const BIG = [0, 1, 2], FIRST_TEST = 24;           // pictures of a class that are shown; 24 is the first for the test
const LAMBDAS = [0, 0.1, 0.3, 1, 3, 10, 30, 100];
const NAMES = ['CLIP as it is', 'CoOp', 'FVG-PT on CoOp'];
const VIEW = 0, RELEVANCE = 1, GIVEN_MASK = 2, OWN_MASK = 3;

function element(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) e.addEventListener(name.slice(2), value);
    else if (value !== false) e.setAttribute(name, value === true ? '' : value);
  }
  e.append(...children);
  return e;
}

const percent = x => `${(100 * x).toFixed(0)} %`;
const say = text => { $('status').textContent = text; };
const bare = name => name.replaceAll('_', ' ');

// ---- the worker ----
// A worker cannot hear the page while it computes.  So whoever stops it ends it, and gets a new one.
const text = id => $(id).textContent;

const decoded = {};

function bytesOf(id) {
  if (decoded[id]) return decoded[id];
  const letters = atob(text(id)), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return decoded[id] = bytes;
}

function knowsSimd() {
  const wantsScalar = new URLSearchParams(location.search).has('scalar');
  return !wantsScalar && WebAssembly.validate(bytesOf('simd-wasm'));
}

let worker = null;
let waiting = new Map();
let lastId = 0;
let hear = () => {};                              // what happens on events while something runs

function startWorker() {
  const build = knowsSimd() ? 'simd' : 'scalar';
  const code = URL.createObjectURL(new Blob([text(build + '-js'), '\n', text('worker-js')], {type: 'text/javascript'}));
  worker = new Worker(code);
  worker.onmessage = ({data}) => {
    if (data.event) return hear(data);
    const {done, failed} = waiting.get(data.id);
    waiting.delete(data.id);
    if (data.error) failed(new Error(data.error));
    else done(data.answer);
  };
  worker.onerror = event => endAll(event.message);
  URL.revokeObjectURL(code);
  const files = {};
  for (const name of ['config.json', 'merges.txt', 'model.safetensors']) files[name] = bytesOf(name);
  return ask('begin', {wasm: bytesOf(build + '-wasm'), files});
}

function ask(what, rest = {}) {
  return new Promise((done, failed) => {
    waiting.set(++lastId, {done, failed});
    worker.postMessage({id: lastId, what, ...rest});
  });
}

function endAll(message) {
  const all = [...waiting.values()];
  waiting = new Map();
  for (const {failed} of all) failed(new Error(message));
}

// ---- pictures ----
function canvasOf(rgb, width, height, label) {
  const canvas = element('canvas', label ? {width, height, role: 'img', 'aria-label': label} : {width, height});
  const image = new ImageData(width, height);
  for (let i = 0, k = 0; i < rgb.length; i += 3, k += 4) {
    image.data[k] = rgb[i];
    image.data[k + 1] = rgb[i + 1];
    image.data[k + 2] = rgb[i + 2];
    image.data[k + 3] = 255;
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

// What is drawn on a source of pixels, as large as the library needs it, on white.
function pictureOf(source, width, height) {
  const scale = Math.min(1, 512 / Math.max(width, height));
  const w = Math.max(1, Math.round(width * scale)), h = Math.max(1, Math.round(height * scale));
  const canvas = element('canvas', {width: w, height: h});
  const context = canvas.getContext('2d');
  context.fillStyle = '#fff';
  context.fillRect(0, 0, w, h);
  context.drawImage(source, 0, 0, w, h);
  const rgba = context.getImageData(0, 0, w, h).data, rgb = new Uint8Array(3 * w * h);
  for (let i = 0, k = 0; i < rgb.length; i += 3, k += 4) rgb.set(rgba.subarray(k, k + 3), i);
  return {width: w, height: h, rgb, canvas};
}

async function pictureOfFile(file) {
  const image = await createImageBitmap(file);
  return pictureOf(image, image.width, image.height);
}

// ---- charts ----
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
    shape(svg, 'polyline', {points: points.map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(' '), class: `line ${style}`});
    const [x, y] = points[points.length - 1];
    shape(svg, 'circle', {cx: px(x), cy: py(y), r: 3.5, class: `dot ${style}`});
  }
}

function fillTable(table, head, rows) {
  const line = (cells, tag) => element('tr', {}, ...cells.map((x, i) =>
    element(tag === 'th' || i === 0 ? 'th' : 'td', tag === 'th' ? {scope: 'col'} : i === 0 ? {scope: 'row'} : {}, String(x))));
  table.replaceChildren(element('thead', {}, line(head, 'th')), element('tbody', {}, ...rows.map(r => line(r, 'td'))));
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
  parts() {
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
  const label = last ? `Loss after round ${last.epoch} of ${NAMES[last.who]}: ${last.loss.toFixed(3)}` : 'No tuning yet';
  drawChart(svg, {lines, parts: course.parts(), low: 0, high, label});
  fillTable(table, ['Round', 'Loss'], course.means.map(m => [`${NAMES[m.who]}, ${m.epoch}`, m.loss.toFixed(4)]));
}

function drawAccuracy(course) {
  const s = course.scores;
  const values = s.flatMap(p => [p.base, p.novel, p.h]);
  const low = Math.max(0, 5 * Math.floor(Math.min(70, ...values) / 5 - 0.2)), high = Math.min(100, 5 * Math.ceil(Math.max(85, ...values) / 5 + 0.2));
  const line = (style, key) => ({style, points: s.map(p => [p.x, p[key]])});
  const last = s[s.length - 1];
  const label = last ? `Percent right: taught ${last.base.toFixed(2)}, new ${last.novel.toFixed(2)}, H ${last.h.toFixed(2)}` : 'No test yet';
  drawChart($('accuracy'), {lines: [line('ink', 'base'), line('dashed', 'novel'), line('accent', 'h')], parts: course.parts(), low, high, label});
  const legend = [['ink', 'taught', 'base'], ['dashed', 'new', 'novel'], ['accent', 'H', 'h']].map(([style, name, key]) => {
    const key_ = document.createElementNS(SVG, 'svg');
    key_.setAttribute('viewBox', '0 0 24 8');
    key_.setAttribute('aria-hidden', 'true');
    shape(key_, 'line', {x1: 0, x2: 24, y1: 4, y2: 4, class: `line ${style}`});
    return element('span', {}, key_, last ? `${name} ${last[key].toFixed(1)}` : name);
  });
  $('legend').replaceChildren(...legend);
  fillTable($('accuracy-table'), ['Round', 'taught', 'new', 'H'], s.map(p => [p.who ? `${NAMES[p.who]}, ${p.epoch}` : NAMES[0],
    p.base.toFixed(2), p.novel.toFixed(2), p.h.toFixed(2)]));
}

// ---- the world ----
const world = {names: [], pictures: [], perClass: 44, course: new Course(), tuned: 0, chosen: -1, isMeasured: false};
let atWork = '';                                  // '', 'world' or 'own': whose tuning runs
let ownModel = null;                              // {files, half} of a visitor's model

let drawn = 0;
function redraw() {                               // at most once a frame
  if (drawn) return;
  drawn = requestAnimationFrame(() => {
    drawn = 0;
    drawAccuracy(world.course);
    drawLoss(world.course, $('loss'), $('loss-table'));
    if (!$('own-figure').hidden) drawLoss(own.course, $('own-loss'), $('own-loss-table'));
  });
}

function fillRow(who, score) {
  const cells = $('results').tBodies[0].rows[who].cells;
  ['base', 'novel', 'h'].forEach((key, i) => { cells[i + 1].textContent = score ? score[key].toFixed(2) : '–'; });
}

function showGallery() {
  const cards = world.names.map((name, label) => {
    const pictures = label < 16 ? BIG : [3];
    return element('li', {}, ...pictures.map((at, i) => {
      const canvas = canvasOf(world.pictures[label][at], 64, 64);
      canvas.setAttribute('aria-hidden', 'true');
      return canvas;
    }), element('span', {}, bare(name)));
  });
  $('base').replaceChildren(...cards.slice(0, 16));
  $('new').replaceChildren(...cards.slice(16));
}

async function drawWorld() {
  const {names, perClass, pictures} = await ask('world', {set: +$('set').value, strength: $('strength').value / 100, shown: [...BIG, FIRST_TEST]});
  Object.assign(world, {names, perClass, pictures, tuned: 0});
  showGallery();
}

async function measureWorld() {
  hear = event => {
    if (event.event === 'progress') say(`Testing CLIP as it is: picture ${event.step} of ${event.steps} …`);
  };
  const score = await ask('measure', {which: 0});
  hear = () => {};
  fillRow(0, score);
  world.course.scores = [{x: 0, who: 0, epoch: 0, ...score}];
  world.isMeasured = true;
  say(`Ready. CLIP as it is knows ${score.base.toFixed(2)} % of the taught kinds and ${score.novel.toFixed(2)} % of the new ones.`);
  redraw();
}

async function newWorld() {
  world.course = new Course();
  [0, 1, 2].forEach(who => fillRow(who, null));
  busy('world');
  try {
    await drawWorld();
    showStrip();
    await measureWorld();
    await lookAt(world.chosen);
  } catch (error) {
    say(`This did not work: ${error.message}`);
  }
  busy('');
}

// ---- tuning ----
function busy(what) {
  atWork = what;
  const world_ = Boolean(what) || Boolean(ownModel);
  for (const id of ['set', 'strength', 'shots', 'lambda', 'start']) $(id).disabled = world_;
  for (const id of ['add-class', 'folder', 'files', 'half']) $(id).disabled = Boolean(what);
  $('own-start').disabled = Boolean(what) || !canTuneOwn();
}

function whileTuning(course, bar, barText, onScore) {
  return event => {
    if (event.event === 'progress') {
      const who = event.work.startsWith('FVGPT') ? 2 : event.work === 'CoOp' ? 1 : 0;
      if (who) {
        course.steps[who] = event.steps;
        course.losses[who].push(...event.losses);
      }
      const share = who ? (who - 1 + event.step / event.steps) / 2 : 0;
      bar.value = share;
      barText.textContent = who ? `${NAMES[who]}: step ${event.step} of ${event.steps}` :
        `Reading the examples: ${event.step} of ${event.steps}`;
      redraw();
    }
    if (event.event === 'epoch') {
      course.epochs[event.who] = event.epochs;
      course.losses[event.who].push(...event.losses);
      course.means.push({who: event.who, epoch: event.epoch, loss: event.loss});
      course.scores.push({x: course.at(event.who, event.epoch), who: event.who, epoch: event.epoch, ...event.score});
      onScore(event);
      redraw();
    }
  };
}

async function tuneWorld() {
  const first = world.course.scores[0];
  world.course = new Course();
  world.course.scores = first ? [first] : [];
  world.tuned = 0;
  fillRow(1, null);
  fillRow(2, null);
  busy('world');
  $('start').hidden = true;
  $('stop').hidden = $('progress').hidden = false;
  $('stop').focus();
  say('Tuning …');
  hear = whileTuning(world.course, $('bar'), $('bar-text'), event => fillRow(event.who, event.score));
  const started = performance.now();
  try {
    const score = await ask('tune', {which: 0, shots: +$('shots').value, seed: 1, lambda: LAMBDAS[$('lambda').value]});
    world.tuned = 2;
    const plain = world.course.scores[0];
    say(`Tuned in ${((performance.now() - started) / 1000).toFixed(0)} seconds: H went from ${plain.h.toFixed(2)} to ${score.h.toFixed(2)}.`);
  } catch (error) {
    say(error.message === 'stopped' ? 'Stopped. What was reached stays in the table.' : `This did not work: ${error.message}`);
  }
  hear = () => {};
  $('start').hidden = false;
  $('stop').hidden = $('progress').hidden = true;
  busy('');
  $('start').focus();
  if (world.tuned) await lookAt(world.chosen);
}

// Ends the worker and whatever it was doing, and brings a new one to where the page was.
async function stop() {
  worker.terminate();
  endAll('stopped');
  hear = () => {};
  await startWorker();
  own.sent = null;
  own.tuned = 0;
  if (ownModel) await ask('open', ownModel);
  else {
    await drawWorld();
    await ask('measure', {which: 0});
  }
}

// ---- where it looks ----
function showStrip() {
  const labels = [0, 3, 6, 9, 12, 15, 16, 19, 22, 25, 28, 31];
  const items = labels.map((label, i) => {
    const name = bare(world.names[label]), id = `look-${label}`;
    const input = element('input', {type: 'radio', name: 'look', id, value: label, checked: i === 0, onchange: () => lookAt(label)});
    return element('span', {}, input, element('label', {for: id}, canvasOf(world.pictures[label][3], 64, 64, `${name}, ${label < 16 ? 'taught' : 'new'}`)));
  });
  $('strip').replaceChildren(...items);
  world.chosen = labels[0];
}

const tile = (look, caption, label) => element('figure', {}, canvasOf(look.rgb, look.side, look.side, label), element('figcaption', {}, ...caption));

function best(probability) {
  const at = probability.indexOf(Math.max(...probability));
  return {at, share: probability[at]};
}

async function lookAt(label) {
  world.chosen = label;
  if (atWork || ownModel || label < 0) return;
  const index = label * world.perClass + FIRST_TEST, within = label % 16, group = label < 16 ? 0 : 16;
  const who = [0, 1, 2].slice(0, world.tuned + 1), name = bare(world.names[label]);
  try {
    const guesses = await ask('classify', {which: 0, index, who});
    const tiles = [tile(await ask('look', {which: 0, index, who: 0, draw: VIEW, label: within}), [element('strong', {}, name), element('br'),
      label < 16 ? 'taught' : 'new'], name)];
    for (const w of who) {
      const {at, share} = best(guesses[w]), said = bare(world.names[group + at]);
      const look = await ask('look', {which: 0, index, who: w, draw: RELEVANCE, label: within});
      tiles.push(tile(look, [element('strong', {}, NAMES[w]), element('br'), `says ${said}, ${percent(share)} ${at === within ? '✓' : '✗'}`],
        `What speaks for ${name}: ${NAMES[w]}, which says ${said}`));
    }
    tiles.push(tile(await ask('look', {which: 0, index, who: 0, draw: GIVEN_MASK, label: within}), [element('strong', {}, 'Mask'), element('br'), 'as drawn'], 'The thing alone, as drawn'));
    tiles.push(tile(await ask('look', {which: 0, index, who: 0, draw: OWN_MASK, label: within}), [element('strong', {}, 'Mask'), element('br'), 'made by CLIP'], 'The thing alone, as CLIP finds it'));
    if (world.chosen === label) $('looks').replaceChildren(...tiles);
  } catch (error) {
    if (error.message !== 'stopped') say(`This did not work: ${error.message}`);
  }
}

// ---- the visitor's own pictures ----
const COLOURS = [['red', '#cd2828'], ['yellow', '#ebcd32'], ['green', '#2d963c'], ['blue', '#2d50cd'], ['purple', '#8237a5'], ['brown', '#784b28'],
  ['black', '#1c1c20'], ['white', '#f0f0ec'], ['teal', '#28a5aa'], ['grey', '#a9a49b']];
const own = {classes: [], current: null, sent: null, tuned: 0, course: new Course(), pen: '#cd2828', isDown: false, x: 128, y: 128};
const board = $('board').getContext('2d', {willReadFrequently: true});

const ownNames = () => own.classes.map(c => c.name.trim()).filter(Boolean);
const filled = () => own.classes.filter(c => c.name.trim() && c.pictures.length);
function canTuneOwn() { return filled().length >= 2; }

function wipe() {
  board.fillStyle = '#a9a49b';
  board.fillRect(0, 0, 256, 256);
  own.current = null;
}

function firstDrawing() {
  wipe();
  board.fillStyle = '#cd2828';
  board.beginPath();
  board.arc(96, 100, 36, 0, 7);
  board.arc(160, 100, 36, 0, 7);
  board.fill();
  board.beginPath();
  board.moveTo(63, 115);
  board.lineTo(193, 115);
  board.lineTo(128, 200);
  board.fill();
}

function stroke(x, y) {
  board.strokeStyle = own.pen;
  board.lineWidth = +$('pen').value;
  board.lineCap = board.lineJoin = 'round';
  board.beginPath();
  board.moveTo(own.x, own.y);
  board.lineTo(x, y);
  board.stroke();
  own.current = null;
  guessSoon();
}

function pointAt(event) {
  const box = $('board').getBoundingClientRect();
  return [(event.clientX - box.left) * 256 / box.width, (event.clientY - box.top) * 256 / box.height];
}

function watchBoard() {
  const canvas = $('board');
  canvas.addEventListener('pointerdown', event => {
    canvas.setPointerCapture(event.pointerId);
    own.isDown = true;
    [own.x, own.y] = pointAt(event);
    stroke(own.x, own.y);
  });
  canvas.addEventListener('pointermove', event => {
    if (!own.isDown || !event.buttons) return;
    const [x, y] = pointAt(event);
    stroke(x, y);
    [own.x, own.y] = [x, y];
  });
  canvas.addEventListener('pointerup', () => { own.isDown = false; });
  canvas.addEventListener('keydown', event => {
    const step = {ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8], ArrowDown: [0, 8]}[event.key];
    if (event.key === ' ') own.isDown = !own.isDown;
    else if (!step) return;
    event.preventDefault();
    const [dx, dy] = step || [0, 0];
    const x = Math.min(256, Math.max(0, own.x + dx)), y = Math.min(256, Math.max(0, own.y + dy));
    if (own.isDown) stroke(x, y);
    [own.x, own.y] = [x, y];
  });
  canvas.addEventListener('blur', () => { own.isDown = false; });
  acceptDrops(canvas, ([file]) => openPicture(file));
}

function acceptDrops(target, take) {
  target.addEventListener('dragover', event => {
    event.preventDefault();
    target.classList.add('over');
  });
  target.addEventListener('dragleave', () => target.classList.remove('over'));
  target.addEventListener('drop', event => {
    event.preventDefault();
    event.stopPropagation();
    target.classList.remove('over');
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}

async function openPicture(file) {
  if (!file) return;
  try {
    const picture = await pictureOfFile(file);
    const scale = 256 / Math.min(picture.width, picture.height), w = picture.width * scale, h = picture.height * scale;
    board.drawImage(picture.canvas, (256 - w) / 2, (256 - h) / 2, w, h);
    own.current = picture;
    guess();
  } catch {
    $('guess').replaceChildren(element('p', {}, `${file.name} is no picture that this browser can read.`));
  }
}

const currentPicture = () => own.current || pictureOf($('board'), 256, 256);

// Tells the worker the classes, unless it has them.  As long as the classes that were tuned on stay the same, pictures are
// told apart among these.
async function sendNames() {
  const ofTuned = filled().map(c => c.name.trim());
  if (own.tuned && own.sent === JSON.stringify(ofTuned)) return ofTuned;
  const names = ownNames(), key = JSON.stringify(names);
  if (own.sent === key) return names;
  await ask('own', {names, pictures: []});
  own.sent = key;
  own.tuned = 0;
  return names;
}

let guessTimer = 0;
function guessSoon() {
  clearTimeout(guessTimer);
  guessTimer = setTimeout(guess, 150);
}

function bars(title, names, probability) {
  const order = probability.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  return element('div', {class: 'bars'}, element('h3', {}, title), element('ol', {}, ...order.map(([p, i]) =>
    element('li', {}, element('span', {}, names[i]), element('span', {class: 'bar', style: `--share:${p}`}), element('span', {}, percent(p))))));
}

async function guess() {
  if (atWork || !worker) return;
  try {
    const names = await sendNames();
    if (!names.length) return;
    const who = own.tuned ? [0, 2] : [0];
    const answers = await ask('classify', {which: 1, picture: withoutCanvas(currentPicture()), who});
    const lists = answers.map((p, i) => bars(i ? 'Tuned on your pictures' : 'CLIP as it is', names, p));
    $('guess').replaceChildren(...lists, element('button', {onclick: () => showOwnLooks(answers[answers.length - 1], names)}, 'Where does it look?'));
  } catch (error) {
    if (error.message !== 'stopped') $('guess').replaceChildren(element('p', {}, error.message));
  }
}

const withoutCanvas = ({width, height, rgb}) => ({width, height, rgb});

async function showOwnLooks(probability, names) {
  const {at} = best(probability), picture = withoutCanvas(currentPicture()), tiles = [];
  const look = (who, draw) => ask('look', {which: 1, picture, who, draw, label: at});
  try {
    for (const who of own.tuned ? [0, 2] : [0])
      tiles.push(tile(await look(who, RELEVANCE), [element('strong', {}, who ? 'Tuned' : NAMES[0]), element('br'), `what speaks for ${names[at]}`], `What speaks for ${names[at]}`));
    tiles.push(tile(await look(0, OWN_MASK), [element('strong', {}, 'Mask'), element('br'), 'made by CLIP'], 'The thing alone, as CLIP finds it'));
    $('own-looks').replaceChildren(...tiles);
  } catch (error) {
    $('own-looks').replaceChildren(element('p', {}, error.message));
  }
}

// ---- classes ----
function thumbnail(c, picture, i) {
  const remove = element('button', {class: 'remove', 'aria-label': `Remove picture ${i + 1} of ${c.name}`, onclick: () => {
    c.pictures.splice(i, 1);
    showClasses();
  }}, '×');
  const small = element('canvas', {width: 56, height: 56, role: 'img', 'aria-label': `Picture ${i + 1} of ${c.name}`});
  const side = Math.min(picture.width, picture.height);
  small.getContext('2d').drawImage(picture.canvas, (picture.width - side) / 2, (picture.height - side) / 2, side, side, 0, 0, 56, 56);
  return element('span', {class: 'thumb'}, small, remove);
}

async function addFiles(c, files) {
  const bad = [];
  for (const file of files) {
    try {
      c.pictures.push(await pictureOfFile(file));
    } catch {
      bad.push(file.name);
    }
  }
  showClasses();
  if (bad.length) $('own-result').textContent = `No pictures that this browser can read: ${bad.join(', ')}.`;
}

function classCard(c, i) {
  const id = `class-${i}`;
  const name = element('input', {type: 'text', id, value: c.name, maxlength: 60, autocomplete: 'off', oninput: event => { c.name = event.target.value; },
    onchange: () => { busy(atWork); guess(); }});
  const files = element('input', {type: 'file', accept: 'image/*', multiple: true, class: 'hidden', id: `${id}-files`,
    onchange: event => addFiles(c, [...event.target.files])});
  const card = element('div', {class: 'class', role: 'group', 'aria-label': `Class ${i + 1}`},
    element('div', {class: 'row'}, element('label', {for: id, class: 'hidden'}, `Name of class ${i + 1}`), name,
      element('button', {class: 'add', onclick: () => { c.pictures.push(pictureCopy()); showClasses(); }}, 'Add the board'),
      element('label', {class: 'button', for: `${id}-files`}, 'Add files', files),
      element('button', {class: 'remove', 'aria-label': `Remove class ${c.name}`, onclick: () => { own.classes.splice(i, 1); showClasses(); guess(); }}, '×')),
    element('div', {class: 'thumbs'}, ...c.pictures.map((p, k) => thumbnail(c, p, k))));
  acceptDrops(card, dropped => addFiles(c, dropped));
  return card;
}

const pictureCopy = () => own.current || pictureOf($('board'), 256, 256);

function showClasses() {
  $('classes').replaceChildren(...own.classes.map(classCard));
  busy(atWork);
}

async function tuneOwn() {
  const classes = filled(), names = classes.map(c => c.name.trim());
  const pictures = classes.flatMap((c, label) => c.pictures.map((p, i) => ({...withoutCanvas(p), label, isTest: c.pictures.length >= 4 && i % 4 === 3})));
  const tests = pictures.filter(p => p.isTest).length;
  own.course = new Course();
  own.tuned = 0;
  busy('own');
  $('own-start').hidden = true;
  $('own-stop').hidden = $('own-progress').hidden = $('own-figure').hidden = false;
  $('own-stop').focus();
  $('own-result').textContent = '';
  hear = event => { if (event.event === 'progress') $('own-bar-text').textContent = `Reading your pictures: ${event.step} of ${event.steps}`; };
  try {
    const plain = await ask('own', {names, pictures});
    own.sent = JSON.stringify(names);
    hear = whileTuning(own.course, $('own-bar'), $('own-bar-text'), () => {});
    const score = await ask('tune', {which: 1, shots: 0, seed: 1, lambda: LAMBDAS[$('lambda').value]});
    own.tuned = 2;
    $('own-result').textContent = `${tests ? `Of ${tests} test pictures` : 'Of the pictures it was tuned on (none were left for a test)'}, ` +
      `CLIP as it is knows ${plain.base.toFixed(0)} %, tuned it knows ${score.base.toFixed(0)} %.`;
  } catch (error) {
    $('own-result').textContent = error.message === 'stopped' ? 'Stopped.' : `This did not work: ${error.message}`;
  }
  hear = () => {};
  $('own-start').hidden = false;
  $('own-stop').hidden = $('own-progress').hidden = true;
  busy('');
  $('own-start').focus();
  guess();
}

// ---- the visitor's own model ----
async function openModel(fileList) {
  const files = [...fileList].filter(f => /\.(json|txt|safetensors|bin|gz|pt)$/.test(f.name));
  if (!files.length) {
    $('model-status').textContent = 'There are no files of a model in that folder.';
    return;
  }
  const wanted = {files, half: $('half').checked};
  busy('model');
  $('model-status').textContent = 'Opening the model …';
  try {
    const {weights, side} = await ask('open', wanted);
    ownModel = wanted;
    $('model-status').textContent = `${(weights / 1e6).toFixed(1)} million weights, pictures of ${side} pixels a side. Part 4 now uses it.`;
    $('own-model').textContent = 'The model that you have opened is at work.';
  } catch (error) {
    $('model-status').textContent = `It cannot be opened: ${error.message}`;
    ownModel = null;
    await backToTiny();
  }
  $('tiny').hidden = !ownModel;
  own.sent = null;
  own.tuned = 0;
  $('own-looks').replaceChildren();
  busy('');
  guess();
}

async function backToTiny() {
  await ask('open', {});
  ownModel = null;
  own.sent = null;
  own.tuned = 0;
  $('tiny').hidden = true;
  $('own-model').textContent = 'The tiny model is at work; it knows only the small world above.';
  await newWorld();
  guess();
}

// ---- begin ----
function watchControls() {
  const show = (id, text) => $(id).addEventListener('input', () => { $(`${id}-value`).textContent = text($(id).value); });
  show('strength', v => `${v} %`);
  show('shots', v => v);
  show('lambda', v => LAMBDAS[v]);
  $('set').addEventListener('change', newWorld);
  $('strength').addEventListener('change', newWorld);
  $('start').addEventListener('click', tuneWorld);
  $('stop').addEventListener('click', stop);
  $('own-start').addEventListener('click', tuneOwn);
  $('own-stop').addEventListener('click', stop);
  $('wipe').addEventListener('click', () => { wipe(); guess(); });
  $('open-picture').addEventListener('change', event => openPicture(event.target.files[0]));
  $('add-class').addEventListener('click', () => {
    own.classes.push({name: `class ${own.classes.length + 1}`, pictures: []});
    showClasses();
    $(`class-${own.classes.length - 1}`).select();
  });
  $('folder').addEventListener('change', event => openModel(event.target.files));
  $('files').addEventListener('change', event => openModel(event.target.files));
  $('tiny').addEventListener('click', backToTiny);
  addEventListener('resize', redraw);
  for (const kind of ['dragover', 'drop']) addEventListener(kind, event => event.preventDefault());
}

function showColours() {
  for (const [name, colour] of COLOURS) {
    const input = element('input', {type: 'radio', name: 'colour', id: `colour-${name}`, checked: name === 'red', onchange: () => { own.pen = colour; }});
    $('colours').append(element('span', {}, input, element('label', {for: `colour-${name}`, title: name, style: `--colour:${colour}`},
      element('span', {class: 'hidden'}, name))));
  }
}

async function begin() {
  watchControls();
  showColours();
  watchBoard();
  firstDrawing();
  own.classes = ['star', 'heart', 'house', 'fish'].map(name => ({name, pictures: []}));
  showClasses();
  redraw();
  try {
    const {simd} = await startWorker();
    $('simd').textContent = simd === 'scalar' ? 'without SIMD' : 'with SIMD';
    await newWorld();
    document.documentElement.dataset.ready = 'yes';
    guess();
  } catch (error) {
    say(`The program cannot start here: ${error.message}`);
  }
}

begin();
