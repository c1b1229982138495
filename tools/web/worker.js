// Runs the library for the page, one request after the other.  A request {id, what, ...} is answered by {id, answer} or
// {id, error}; what happens meanwhile is told by {event, ...}.  In front of this text stands what emcc made, which
// defines fvgpt().
'use strict';

const WHO = ['plain', 'coop', 'fvgpt'];
let lib = null;
let stopped = false;

// ---- what the library tells ----
let losses = [];
let toldAt = 0;
let note = '';

function onProgress(what, step, steps, epoch, loss) {
  const now = performance.now();
  const trains = what.includes('CoOp');
  if (trains) losses.push(loss);
  if (now - toldAt < 60 && step < steps) return;
  toldAt = now;
  postMessage({event: 'progress', work: what, step, steps, epoch, losses});
  losses = [];
}

function onNote(level, text) {
  note = text;
  if (level === 0) postMessage({event: 'warning', text});
}

// ---- calls ----
const fail = () => { throw new Error(lib.UTF8ToString(lib._web_error()) || note || 'out of memory'); };
const check = status => { if (status < 0) fail(); };
const place = pointer => pointer || fail();
const numbers = (pointer, n) => Array.from(lib.HEAPF64.subarray(place(pointer) >> 3, (pointer >> 3) + n));
const bytes = (pointer, n) => lib.HEAPU8.slice(place(pointer), pointer + n);
const turn = () => new Promise(done => setTimeout(done, 0));

function score(which, who) {
  const [base, novel, h] = numbers(lib._web_score(which, who), 3);
  return {base, novel, h};
}

function classNames(which, n) {
  return Array.from({length: n}, (_, i) => lib.UTF8ToString(lib._web_class_name(which, i)));
}

function hold(picture) {
  lib.HEAPU8.set(picture.rgb, place(lib._web_hold(picture.width, picture.height)));
}

function modelFacts() {
  const [weights, side, width, bits] = numbers(lib._web_model(), 4);
  return {weights, side, width, bits};
}

function openFolder(folder, isTiny, bits) {
  check(lib.ccall('web_open', 'number', ['string', 'number', 'number'], [folder, isTiny, bits]));
  return modelFacts();
}

// Files that the visitor has chosen stay where they are; the library reads slices of them.
function mount(files) {
  if (lib.FS.analyzePath('/model').exists) lib.FS.unmount('/model');
  else lib.FS.mkdir('/model');
  lib.FS.mount(lib.FS.filesystems.WORKERFS, {files}, '/model');
}

const does = {
  async begin({wasm, files}) {
    lib = await fvgpt({wasmBinary: wasm, progress: onProgress, note: onNote, printErr: text => onNote(1, text)});
    check(lib._web_begin());
    lib.FS.mkdir('/tiny');
    for (const [name, content] of Object.entries(files)) lib.FS.writeFile('/tiny/' + name, content);
    return {simd: lib.UTF8ToString(lib._web_simd()), model: openFolder('/tiny', 1, 32)};
  },

  async open({files, bits}) {
    if (!files) return openFolder('/tiny', 1, 32);
    mount(files);
    return openFolder('/model', 0, bits);
  },

  // The world's set.  shown says which pictures of each taught class go back, and which of each new one.
  async world({set, strength, shown}) {
    check(lib._web_begin_world(set, strength));
    const names = classNames(0, 32);
    const perClass = lib._web_count(0) / names.length;
    const draw = i => {
      lib._web_draw_picture(i);
      return bytes(lib._web_picture(0, i), 64 * 64 * 3);
    };
    const pictures = names.map((_, label) => shown[label < 16 ? 0 : 1].map(i => draw(label * perClass + i)));
    return {names, perClass, pictures};
  },

  async measure({which}) {
    check(lib._web_measure(which));
    return score(which, 0);
  },

  // The visitor's classes and pictures.
  async own({names, pictures}) {
    check(lib._web_new_set(1, names.length, pictures.length));
    for (const name of names) check(lib.ccall('web_name_class', 'number', ['number', 'string'], [1, name]));
    for (const p of pictures)
      lib.HEAPU8.set(p.rgb, place(lib._web_add_picture(1, p.width, p.height, p.label, p.isTest ? 1 : 0)));
    if (!pictures.length) return null;
    check(lib._web_measure(1));
    return score(1, 0);
  },

  // Both stages, an epoch at a time; between two epochs the page may have said stop.
  async tune({which, shots, seed, lambda}) {
    check(lib._web_tune(which, shots, seed, lambda));
    losses = [];
    let last = null;
    for (let done = false; !done;) {
      const [who, epoch, epochs, loss] = numbers(lib._web_slice(which), 4);
      done = who === 2 && epoch === epochs;
      last = score(which, who);
      postMessage({event: 'epoch', which, who, epoch, epochs, loss, score: last, losses});
      losses = [];
      await turn();
      if (stopped) throw new Error('stopped');
    }
    return last;
  },

  // The probabilities of a picture's classes, for each of those who shall say.
  async classify({which, index, picture, who}) {
    if (picture) hold(picture);
    const n = which === 0 ? 16 : lib._web_classes(1);
    return who.map(w => numbers(lib._web_classify(which, picture ? -1 : index, w), n));
  },

  // A picture with what is asked for drawn on it.
  async look({which, index, picture, who, draw, label}) {
    if (picture) hold(picture);
    const {side} = modelFacts();
    const rgb = bytes(lib._web_look(which, picture ? -1 : index, who, draw, label), side * side * 3);
    return {side, rgb};
  },
};

let queue = Promise.resolve();
onmessage = ({data}) => {
  if (data.what === 'stop') {
    stopped = true;
    return;
  }
  queue = queue.then(async () => {
    stopped = false;
    try {
      const answer = await does[data.what](data);
      postMessage({id: data.id, answer});
    } catch (error) {
      const isBroken = error instanceof WebAssembly.RuntimeError;         // nothing may be asked of it any more
      postMessage({id: data.id, error: error.message || String(error), isBroken});
    }
  });
};
