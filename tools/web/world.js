// Parts 1 to 3 of the page: the pictures of the small world, tuning on them, and where it looks.
const world = {names: [], pictures: [], perClass: 44, course: new Course(), tuned: 0, chosen: -1};
let atWork = '';                                  // '', 'world' or 'own': whose tuning runs
let ownModel = null;                              // {files, bits} of a visitor's model

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

const testPicture = label => world.pictures[label].at(-1);

function showGallery() {
  const cards = world.names.map((name, label) => {
    const pictures = label < 16 ? world.pictures[label].slice(0, -1) : [testPicture(label)];
    return element('li', {}, ...pictures.map(rgb => {
      const canvas = canvasOf(rgb, 64, 64);
      canvas.setAttribute('aria-hidden', 'true');
      return canvas;
    }), element('span', {}, bare(name)));
  });
  $('base').replaceChildren(...cards.slice(0, 16));
  $('new').replaceChildren(...cards.slice(16));
}

async function drawWorld() {
  const shown = [[...EXAMPLES, FIRST_TEST], [FIRST_TEST]];
  const wanted = {set: +$('set').value, strength: $('strength').value / 100, shown};
  Object.assign(world, await ask('world', wanted), {tuned: 0});
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
  const base = score.base.toFixed(2), novel = score.novel.toFixed(2);
  say(`Ready. CLIP as it is knows ${base} % of the taught kinds and ${novel} % of the new ones.`);
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
  for (const id of ['add-class', 'folder', 'files', 'bits']) $(id).disabled = Boolean(what);
  $('own-start').disabled = Boolean(what) || !canTuneOwn();
}

// Of the two buttons and the bar of a run; part is '' or 'own-'.
function showStart(part, isIdle) {
  $(`${part}start`).hidden = !isIdle;
  $(`${part}stop`).hidden = $(`${part}progress`).hidden = isIdle;
  $(part + (isIdle ? 'start' : 'stop')).focus();
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
        `Reading pictures: ${event.step} of ${event.steps}`;
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
  showStart('', false);
  say('Tuning …');
  hear = whileTuning(world.course, $('bar'), $('bar-text'), event => fillRow(event.who, event.score));
  const started = performance.now();
  try {
    const score = await ask('tune', {which: 0, shots: +$('shots').value, seed: 1, lambda: LAMBDAS[$('lambda').value]});
    world.tuned = 2;
    const plain = world.course.scores[0], seconds = (performance.now() - started) / 1000;
    say(`Tuned in ${seconds.toFixed(0)} seconds: H went from ${plain.h.toFixed(2)} to ${score.h.toFixed(2)}.`);
    showStart('', true);
  } catch (error) {
    showStart('', true);
    await endedEarly(error, $('status'));
  }
  hear = () => {};
  busy('');
  $('start').focus();
  if (world.tuned) await lookAt(world.chosen);
}

// Ends the worker and whatever it was doing, and brings a new one to where the page was.
let restarted = Promise.resolve();

function stop() {
  worker.terminate();
  endAll('stopped');
  restarted = restart();
}

async function restart() {
  hear = () => {};
  own.sent = null;
  own.tuned = 0;
  await startWorker();
  if (ownModel) return ask('open', ownModel);
  await drawWorld();
  return ask('measure', {which: 0});
}

// What to say of a run that ended early; waits until the next one can begin.
async function endedEarly(error, place) {
  place.textContent = error.message === 'stopped' ? 'Stopped.' : `This did not work: ${error.message}`;
  try {
    await restarted;
  } catch (again) {
    place.textContent = `The program cannot go on: ${again.message}`;
  }
}

// ---- where it looks ----
function showStrip() {
  const labels = [0, 3, 6, 9, 12, 15, 16, 19, 22, 25, 28, 31];
  const items = labels.map((label, i) => {
    const name = `${bare(world.names[label])}, ${label < 16 ? 'taught' : 'new'}`, id = `look-${label}`;
    const input = element('input',
      {type: 'radio', name: 'look', id, value: label, checked: i === 0, onchange: () => lookAt(label)});
    return element('span', {}, input, element('label', {for: id}, canvasOf(testPicture(label), 64, 64, name)));
  });
  $('strip').replaceChildren(...items);
  world.chosen = labels[0];
}

// A picture that the library has drawn on, with a title, a line below it, and words for those who do not see it.
function tile({rgb, side}, title, line, words) {
  const caption = element('figcaption', {}, element('strong', {}, title), element('br'), line);
  return element('figure', {}, canvasOf(rgb, side, side, words), caption);
}

function best(probability) {
  const at = probability.indexOf(Math.max(...probability));
  return {at, share: probability[at]};
}

async function tilesOf(label) {
  const index = label * world.perClass + FIRST_TEST, within = label % 16, first = label - within;
  const who = [0, 1, 2].slice(0, world.tuned + 1), name = bare(world.names[label]);
  const look = (w, draw) => ask('look', {which: 0, index, who: w, draw, label: within});
  const guesses = await ask('classify', {which: 0, index, who});
  const tiles = [tile(await look(0, VIEW), name, first ? 'new' : 'taught', name)];
  for (const w of who) {
    const {at, share} = best(guesses[w]), said = bare(world.names[first + at]);
    const line = `says ${said}, ${percent(share)} ${at === within ? '✓' : '✗'}`;
    const words = `What speaks for ${name}: ${NAMES[w]}, which says ${said}`;
    tiles.push(tile(await look(w, RELEVANCE), NAMES[w], line, words));
  }
  tiles.push(tile(await look(0, GIVEN_MASK), 'Mask', 'as drawn', 'The thing alone, as drawn'));
  tiles.push(tile(await look(0, OWN_MASK), 'Mask', 'made by CLIP', 'The thing alone, as CLIP finds it'));
  return tiles;
}

async function lookAt(label) {
  world.chosen = label;
  if (atWork || ownModel || label < 0) return;
  try {
    const tiles = await tilesOf(label);
    if (world.chosen === label) $('looks').replaceChildren(...tiles);
  } catch (error) {
    if (error.message !== 'stopped') say(`This did not work: ${error.message}`);
  }
}
