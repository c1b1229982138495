// Parts 4 and 5: a visitor's own pictures and model.
const COLOURS = {red: '#cd2828', yellow: '#ebcd32', green: '#2d963c', blue: '#2d50cd', purple: '#8237a5',
  brown: '#784b28', black: '#1c1c20', white: '#f0f0ec', teal: '#28a5aa', grey: '#a9a49b'};
const own = {
  classes: [],                                    // {name, pictures}
  current: null,                                  // the picture on the board; null: what is drawn there
  sent: null, tuned: 0,                           // the names that the worker has, and who is tuned on them
  course: new Course(),
  pen: COLOURS.red, isDown: false, x: 128, y: 128,
};
const board = $('board').getContext('2d', {willReadFrequently: true});

const ownNames = () => own.classes.map(c => c.name.trim()).filter(Boolean);
const filled = () => own.classes.filter(c => c.name.trim() && c.pictures.length);
function canTuneOwn() { return filled().length >= 2; }

function wipe() {
  board.fillStyle = COLOURS.grey;
  board.fillRect(0, 0, 256, 256);
  own.current = null;
}

function firstDrawing() {
  wipe();
  board.fillStyle = COLOURS.red;
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

// Tells the worker the classes, unless it has them.  As long as the classes that were tuned on stay the same,
// pictures are told apart among these.
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
  const order = probability.map((p, i) => [p, names[i]]).sort((a, b) => b[0] - a[0]).slice(0, 5);
  const items = order.map(([p, name]) => element('li', {}, element('span', {}, name),
    element('span', {class: 'bar', style: `--share:${p}`}), element('span', {}, percent(p))));
  return element('div', {class: 'bars'}, element('h3', {}, title), element('ol', {}, ...items));
}

// While an answer is awaited, at most one more question waits behind it.
let asking = false, asksAgain = false;

async function guess() {
  asksAgain = asking;
  if (atWork || asking || !worker) return;
  asking = true;
  await guessOnce();
  asking = false;
  if (asksAgain) guess();
}

async function guessOnce() {
  try {
    const names = await sendNames();
    if (!names.length) return;
    const who = own.tuned ? [0, 2] : [0];
    const answers = await ask('classify', {which: 1, picture: withoutCanvas(currentPicture()), who});
    const lists = answers.map((p, i) => bars(i ? 'Tuned on your pictures' : 'CLIP as it is', names, p));
    const showLooks = () => showOwnLooks(names, best(answers[answers.length - 1]).at);
    $('guess').replaceChildren(...lists, element('button', {onclick: showLooks}, 'Where does it look?'));
  } catch (error) {
    if (error.message !== 'stopped') $('guess').replaceChildren(element('p', {}, error.message));
  }
}

const withoutCanvas = ({width, height, rgb}) => ({width, height, rgb});

async function showOwnLooks(names, label) {
  const picture = withoutCanvas(currentPicture()), line = `what speaks for ${names[label]}`, tiles = [];
  const look = (who, draw) => ask('look', {which: 1, picture, who, draw, label});
  try {
    tiles.push(tile(await look(0, RELEVANCE), NAMES[0], line, `${NAMES[0]}: ${line}`));
    if (own.tuned) tiles.push(tile(await look(2, RELEVANCE), 'Tuned', line, `Tuned: ${line}`));
    tiles.push(tile(await look(0, OWN_MASK), 'Mask', 'made by CLIP', 'The thing alone, as CLIP finds it'));
    $('own-looks').replaceChildren(...tiles);
  } catch (error) {
    $('own-looks').replaceChildren(element('p', {}, error.message));
  }
}

// ---- classes ----
function thumbnail(c, picture, i) {
  const name = `picture ${i + 1} of ${c.name}`, side = Math.min(picture.width, picture.height);
  const left = (picture.width - side) / 2, top = (picture.height - side) / 2;
  const small = element('canvas', {width: 56, height: 56, role: 'img', 'aria-label': name});
  small.getContext('2d').drawImage(picture.canvas, left, top, side, side, 0, 0, 56, 56);
  const remove = () => {
    c.pictures.splice(i, 1);
    showClasses();
  };
  const button = element('button', {class: 'remove', 'aria-label': `Remove ${name}`, onclick: remove}, '×');
  return element('span', {class: 'thumb'}, small, button);
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
  const addBoard = () => {
    c.pictures.push(currentPicture());
    showClasses();
  };
  const remove = () => {
    own.classes.splice(i, 1);
    showClasses();
    guess();
  };
  const rename = event => { c.name = event.target.value; };
  const renamed = () => {
    busy(atWork);
    guess();
  };
  const name = element('input', {type: 'text', id, value: c.name, maxlength: 60, autocomplete: 'off', oninput: rename,
    onchange: renamed});
  const files = element('input', {type: 'file', accept: 'image/*', multiple: true, class: 'hidden', id: `${id}-files`,
    onchange: event => addFiles(c, [...event.target.files])});
  const row = element('div', {class: 'row'},
    element('label', {for: id, class: 'hidden'}, `Name of class ${i + 1}`), name,
    element('button', {class: 'add', onclick: addBoard}, 'Add the board'),
    element('label', {class: 'button', for: `${id}-files`}, 'Add files', files),
    element('button', {class: 'remove', 'aria-label': `Remove class ${c.name}`, onclick: remove}, '×'));
  const thumbs = element('div', {class: 'thumbs'}, ...c.pictures.map((p, k) => thumbnail(c, p, k)));
  const card = element('div', {class: 'class', role: 'group', 'aria-label': `Class ${i + 1}`}, row, thumbs);
  acceptDrops(card, dropped => addFiles(c, dropped));
  return card;
}

function showClasses() {
  $('classes').replaceChildren(...own.classes.map(classCard));
  busy(atWork);
}

// The pictures as the worker wants them: of a class with four or more, every fourth is kept for the test.
function ownPictures(classes) {
  return classes.flatMap(({pictures}, label) => pictures.map((p, i) =>
    ({...withoutCanvas(p), label, isTest: pictures.length >= 4 && i % 4 === 3})));
}

async function tuneOwn() {
  const classes = filled(), names = classes.map(c => c.name.trim()), pictures = ownPictures(classes);
  const tests = pictures.filter(p => p.isTest).length;
  const of = tests ? `Of ${tests} test pictures` : 'Of the pictures it was tuned on (none were left for a test)';
  own.course = new Course();
  own.tuned = 0;
  busy('own');
  $('own-figure').hidden = false;
  showStart('own-', false);
  $('own-result').textContent = '';
  hear = whileTuning(own.course, $('own-bar'), $('own-bar-text'), () => {});
  try {
    const plain = await ask('own', {names, pictures});
    own.sent = JSON.stringify(names);
    const score = await ask('tune', {which: 1, shots: 0, seed: 1, lambda: LAMBDAS[$('lambda').value]});
    own.tuned = 2;
    const before = plain.base.toFixed(0), after = score.base.toFixed(0);
    $('own-result').textContent = `${of}, CLIP as it is knows ${before} %, tuned it knows ${after} %.`;
    showStart('own-', true);
  } catch (error) {
    showStart('own-', true);
    await endedEarly(error, $('own-result'));
  }
  hear = () => {};
  busy('');
  guess();
}

// ---- the visitor's own model ----
async function openModel(chosen) {
  const files = chosen.filter(f => /\.(json|txt|safetensors|bin|gz|pt)$/.test(f.name));
  if (!files.length) {
    $('model-status').textContent = 'There are no files of a model in that folder.';
    return;
  }
  const wanted = {files, bits: Number($('bits').value)};
  busy('model');
  $('model-status').textContent = 'Opening the model …';
  try {
    const {weights, side, bits} = await ask('open', wanted);
    ownModel = wanted;
    const millions = (weights / 1e6).toFixed(1);
    $('model-status').textContent =
      `${millions} million weights of ${bits} bits, pictures of ${side} pixels a side. Part 4 now uses it.`;
    say('Your own model is open; parts 1 to 3 wait for the tiny one.');
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
