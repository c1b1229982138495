// The page of `make web`: what its parts share, which are the worker and pictures.  After this come charts.js,
// world.js, own.js and begin.js.
'use strict';

const $ = id => document.getElementById(id);
const EXAMPLES = [0, 1, 2], FIRST_TEST = 24;      // pictures of a class that are shown; 24 is the first for the test
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

// A module of one function, which returns i8x16.splat(0): a browser without SIMD refuses it.
const SPLAT = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0,
  253, 15, 11);

function knowsSimd() {
  return !new URLSearchParams(location.search).has('scalar') && WebAssembly.validate(SPLAT);
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
    if (data.isBroken) stop();
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
