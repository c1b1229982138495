// The page of `make web` in a real browser, opened from disk and offline:  node tests/web.mjs build
//
// Its numbers must be the native program's to the last printed digit: the page without SIMD is compared with
// `fvgpt tune --simd scalar`, the page with SIMD with `--simd sse2`, whose vectors are as wide.  Wants
// build/web/index.html, build/fvgpt, build/world, a Chromium, and playwright-core in build/browser
// (npm install --prefix build/browser playwright-core); where one is missing it is skipped and says so.  Screenshots go
// to build/web/*.png.  WEB_LIMIT=3 lets everything take three times as long.  The last line reads "N passed, N failed".
import {createRequire} from 'node:module';
import {execFileSync, spawn} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const build = path.resolve(process.argv[2] || 'build');
const page_file = path.join(build, 'web/index.html');
const work = path.join(build, 'test-web');
const limit = Number(process.env.WEB_LIMIT || 1);
const env = {...process.env, FVGPT_CACHE: 'none'};

// ---- what is needed ----
function skip(why) {
  console.log(`skipped: ${why}`);
  process.exit(0);
}

const chromium = ['/usr/bin/chromium', '/usr/bin/google-chrome'].find(fs.existsSync);
if (!chromium) skip('no chromium');
if (!fs.existsSync(page_file)) skip(`no ${page_file}; make web needs emcc`);
let playwright = null;
try {
  playwright = createRequire(path.join(build, 'browser/'))('playwright-core');
} catch {
  skip(`no playwright-core in ${build}/browser`);
}

// ---- checks ----
let passed = 0, failed = 0;
function check(what, holds, seen = '') {
  if (holds) passed++;
  else {
    failed++;
    console.log(`FAILED ${what}${seen === '' ? '' : `: ${seen}`}`);
  }
}

// ---- the native program ----
const png = (name, i) => path.join(work, `clear/things/images/${name}/00${i}.png`);

function drawNatively() {
  const world = (...args) => execFileSync(path.join(build, 'world'), args, {env});
  fs.rmSync(work, {recursive: true, force: true});
  fs.mkdirSync(work, {recursive: true});
  world(path.join(work, 'native'), '--set', 'things');
  world(path.join(work, 'clear'), '--set', 'things', '--clear', '--png', '--train', '4', '--test', '1');
}

// The rows of base, new and H as the program prints them.
function rowsOf(printed) {
  const number = '(\\d+\\.\\d\\d)';
  return ['zero_shot', 'CoOp', 'FVGPT_CoOp'].map(name => {
    const found = printed.match(new RegExp(`^${name} +seed 1 +base +${number} +new +${number} +H +${number}`, 'm'));
    return found ? found.slice(1).join(' ') : `no ${name}`;
  });
}

function tuneNatively(simd) {
  const args = ['tune', '--simd', simd, '--threads', '1', '--model', 'examples/tiny-clip', '--data',
    path.join(work, 'native/things'), '--trainer', 'FVGPT_CoOp', '--ctx-init', 'a photo of a', '--augment', 'none',
    '--seeds', '1', '--quiet', '--out', path.join(work, simd)];
  return new Promise(done => {
    const program = spawn(path.join(build, 'fvgpt'), args, {env});
    let printed = '';
    program.stdout.on('data', text => { printed += text; });
    program.on('close', () => done(rowsOf(printed)));
  });
}

// ---- the page ----
const complaints = [], requests = [];
let browser = null, page = null;

// Opens the page; returns after how many milliseconds it could be used.
async function open(query, options) {
  const context = await browser.newContext({...options, offline: true});
  page = await context.newPage();
  page.setDefaultTimeout(60000 * limit);
  page.on('console', message => complaints.push(message.text()));
  page.on('pageerror', error => complaints.push(error.message));
  page.on('request', request => requests.push(request.url()));
  await page.goto(`file://${page_file}${query}`);
  await page.waitForSelector('#base li canvas');
  const usable = await page.evaluate(() => performance.now());
  await page.waitForFunction(() => document.documentElement.dataset.ready);
  return usable;
}

const textOf = selector => page.textContent(selector);
const countOf = selector => page.$$eval(selector, all => all.length);
const comesToBe = (selector, pattern) => page.waitForFunction(
  ([s, source]) => new RegExp(source).test(document.querySelector(s)?.textContent ?? ''), [selector, pattern.source]);
const comeToBe = (selector, n) => page.waitForFunction(
  ([s, wanted]) => document.querySelectorAll(s).length === wanted, [selector, n]);
const shoot = name => page.screenshot({path: path.join(build, 'web', `${name}.png`), fullPage: true});
const canStart = () => page.waitForSelector('#start:not([disabled])');

async function hasTuned() {
  await page.waitForSelector('#start:not([hidden])');
  return textOf('#status');
}

async function drop(target, files) {
  const all = files.map(file => ({name: path.basename(file), data: fs.readFileSync(file).toString('base64')}));
  const transfer = await page.evaluateHandle(list => {
    const t = new DataTransfer();
    for (const {name, data} of list)
      t.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name, {type: 'image/png'}));
    return t;
  }, all);
  await page.dispatchEvent(target, 'drop', {dataTransfer: transfer});
}

// ---- numbers ----
async function testNumbers(query, simd) {
  const usable = await open(query, {viewport: {width: 1280, height: 900}});
  check(`${simd}: a usable screen within 3 s`, usable < 3000 * limit, `${usable.toFixed(0)} ms`);

  const began = Date.now();
  await page.click('#start');
  const status = await hasTuned(), seconds = (Date.now() - began) / 1000;
  check(`${simd}: things with 16 shots are tuned within 60 s`, seconds < 60 * limit, `${seconds} s`);
  check(`${simd}: the page says what came of it`, /^Tuned in .* H went from/.test(status), status);

  const here = await page.$$eval('#results tbody tr', all => all.map(
    r => [...r.cells].slice(1).map(c => c.textContent).join(' ')));
  const native = await tuneNatively(simd);
  check(`${simd}: the numbers are the native program's`, here.join(' | ') === native.join(' | '),
    `${here.join(' | ')}, natively ${native.join(' | ')}`);
  console.log(`${simd}: usable after ${usable.toFixed(0)} ms, tuned in ${seconds.toFixed(1)} s, ${here.join(' | ')}`);
  const said = simd === 'scalar' ? 'without SIMD' : 'with SIMD';
  check(`${simd}: the page says ${said}`, (await textOf('#simd')) === said);
}

async function testLooks() {
  check('the accuracies of every round are in a table', (await countOf('#accuracy-table tbody tr')) === 21);
  const chart = await page.getAttribute('#accuracy', 'aria-label');
  check('a chart says in words what it shows', /taught .* new .* H/.test(chart), chart);
  await comeToBe('#looks figure', 6);
  const looks = await textOf('#looks');
  await page.check('#look-31', {force: true});
  await page.waitForFunction(before => document.querySelector('#looks').textContent !== before, looks);
  check('another picture has other maps', /new/.test(await textOf('#looks')));
  await shoot('wide-light');
}

// ---- a visitor's pictures ----
async function testDrops() {
  await comesToBe('#guess .bars li', /heart/);
  check('the first drawing is a heart', true);
  for (const name of ['house', 'star']) {
    await drop('#board', [png(name, 0)]);
    await comesToBe('#guess .bars li', new RegExp(name));
    check(`a dropped ${name} is classified`, true);
  }
  const nonsense = path.join(work, 'nonsense.png');
  fs.writeFileSync(nonsense, 'this is no picture');
  await drop('#board', [nonsense]);
  await comesToBe('#guess', /nonsense.png is no picture/);
  check('what is no picture is told', true);
}

async function testOwnClasses() {
  await drop('.class >> nth=0', [0, 1, 2, 3].map(i => png('star', i)));
  await page.setInputFiles('#class-1-files', [0, 1, 2, 3].map(i => png('heart', i)));
  await comeToBe('.thumb', 8);
  await page.click('#own-start');
  await comesToBe('#own-result', /./);
  const result = await textOf('#own-result');
  const form = /^Of 2 test pictures, CLIP as it is knows \d+ %, tuned it knows \d+ %/;
  check('own pictures are tuned on', form.test(result), result);
  await page.setInputFiles('#open-picture', png('heart', 4));
  await comesToBe('#guess .bars:nth-child(2) li', /heart/);             // the star there is answered first
  check('tuned words classify a new picture', true);
  await page.click('#guess button');
  await comeToBe('#own-looks figure', 3);
  await shoot('wide-light-own');
}

async function testStop() {
  await page.click('#start');
  await comesToBe('#bar-text', /step \d/);
  const began = Date.now();
  await page.click('#stop');
  const status = await hasTuned(), took = Date.now() - began;
  check('stop is obeyed at once', took < 1000 * limit, `${took} ms`);
  check('stop is told', status.startsWith('Stopped'), status);
  await canStart();
}

// The program's file of eight-bit weights, and what a model must have beside it.
function quantised() {
  const model = path.join(work, 'eight/model.safetensors');
  fs.mkdirSync(path.dirname(model), {recursive: true});
  execFileSync(path.join(build, 'fvgpt'), ['quantise', '--model', 'examples/tiny-clip', '--out', model],
    {env, stdio: 'pipe'});
  return [...['config.json', 'merges.txt'].map(name => path.resolve('examples/tiny-clip', name)), model];
}

// Opens a model again, and returns what it says of the picture on the board, a house.
async function reopen(files, bits) {
  await page.evaluate(() => document.querySelector('#guess').replaceChildren());
  await page.setInputFiles('#files', files);
  await comesToBe('#model-status', new RegExp(`million weights of ${bits} bits`));
  await comesToBe('#guess .bars li', /house/);
  return textOf('#guess');
}

async function testOwnModel() {
  const files = names => names.map(name => path.resolve('examples/tiny-clip', name));
  await page.setInputFiles('#files', files(['merges.txt', 'config.json']));
  await comesToBe('#model-status', /It cannot be opened: .*safetensors/);
  check('a folder without weights is told of', true);
  await canStart();

  const whole = files(['config.json', 'merges.txt', 'model.safetensors']);
  await page.setInputFiles('#files', whole);
  await comesToBe('#model-status', /million weights of 32 bits, pictures of 64 pixels/);
  check('a model of one\'s own opens', true);
  await drop('#board', [png('house', 1)]);
  await comesToBe('#guess .bars li', /house/);
  check('it classifies', true);

  const guess = await reopen(whole, 32);
  await page.selectOption('#bits', '8');
  const rounded = await reopen(whole, 8);
  const likely = text => Number(text.match(/house *(\d+) %/)[1]);
  check('weights of 8 bits say nearly the same', Math.abs(likely(guess) - likely(rounded)) <= 3, `${guess}, ${rounded}`);
  await page.selectOption('#bits', '32');
  const asRead = await reopen(quantised(), 8);
  check('so does the file of fvgpt quantise, which keeps its bits', asRead === rounded, `${asRead}, ${rounded}`);

  await page.waitForSelector('#own-start:not([disabled])');
  await page.click('#own-start');
  await comesToBe('#own-result', /tuned it knows/);
  check('it is tuned', true);
  await page.click('#tiny');
  await canStart();
}

// ---- a phone, in the dark, by keyboard ----
async function testForm() {
  const widths = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  check('nothing is wider than 400 pixels', widths[0] <= widths[1], widths.join(' > '));
  const nameless = await page.$$eval('input, select, button, canvas[tabindex], [role=img], progress', all => {
    const isNamed = e => e.getAttribute('aria-label') || e.textContent.trim() ||
      [...e.labels || []].some(l => l.textContent.trim() || l.querySelector('[aria-label]'));
    return all.filter(e => !isNamed(e)).map(e => e.outerHTML.slice(0, 90));
  });
  check('every control and picture has a name', nameless.length === 0, nameless.join('\n'));
}

// How dark the paper is, 0 to 1, and the least contrast of text on it, as WCAG 2 defines them.
async function colours(scheme) {
  await page.emulateMedia({colorScheme: scheme});
  return page.evaluate(() => {
    const channel = x => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    const luminance = colour => {
      const [r, g, b] = colour.match(/[\d.]+/g).map(x => channel(x / 255));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = luminance(getComputedStyle(document.body).backgroundColor);
    const inks = ['.lead', '.help', '.lead strong', '.eyebrow', 'output'].map(
      s => luminance(getComputedStyle(document.querySelector(s)).color));
    const contrast = Math.min(...inks.map(x => (Math.max(x, paper) + 0.05) / (Math.min(x, paper) + 0.05)));
    return {paper, contrast};
  });
}

async function testColours() {
  const light = await colours('light'), dark = await colours('dark');
  const papers = `${light.paper} ${dark.paper}`;
  check('the paper is as light or dark as asked for', light.paper > 0.8 && dark.paper < 0.05, papers);
  const least = Math.min(light.contrast, dark.contrast);
  check('text stands out 4.5 to 1', least >= 4.5, least);
}

async function tabTo(id) {
  for (let i = 0; i < 80; i++) {
    if (await page.evaluate(wanted => document.activeElement.id === wanted, id)) return true;
    await page.keyboard.press('Tab');
  }
  return false;
}

async function pressAll(...keys) {
  for (const key of keys) await page.keyboard.press(key);
}

async function testKeyboard() {
  const drawn = () => page.evaluate(() => document.getElementById('board').toDataURL());
  check('keyboard: shots are reached', await tabTo('shots'));
  await pressAll(...Array(14).fill('ArrowLeft'));
  check('keyboard: shots are set', (await textOf('#shots-value')) === '2', await textOf('#shots-value'));
  check('keyboard: the button is reached', await tabTo('start'));
  await pressAll('Enter');
  await page.waitForSelector('#stop:not([hidden])');
  check('keyboard: the focus is on Stop', await page.evaluate(() => document.activeElement.id === 'stop'));
  const status = await hasTuned();
  check('keyboard: tuning ends', /^Tuned/.test(status), status);
  check('keyboard: the board is reached', await tabTo('board'));
  const before = await drawn();
  await pressAll('Space', ...Array(6).fill('ArrowRight'), 'Space');
  check('keyboard: it draws', before !== await drawn());
}

async function testPhone() {
  await open('', {viewport: {width: 400, height: 800}, colorScheme: 'dark', deviceScaleFactor: 2, hasTouch: true});
  await testForm();
  await testColours();
  await testKeyboard();
  await comeToBe('#looks figure', 6);
  await shoot('narrow-dark');
  await page.emulateMedia({colorScheme: 'light'});
  await shoot('narrow-light');
  await page.emulateMedia({colorScheme: 'dark'});
  await page.setViewportSize({width: 1280, height: 900});
  await page.waitForTimeout(300);
  await shoot('wide-dark');
}

// ---- all of it ----
drawNatively();
browser = await playwright.chromium.launch({executablePath: chromium, args: ['--no-sandbox']});
try {
  await testNumbers('?scalar', 'scalar');
  await page.context().close();
  await testNumbers('', 'sse2');
  await testLooks();
  await testDrops();
  await testOwnClasses();
  await testStop();
  await testOwnModel();
  await page.context().close();
  await testPhone();
} catch (error) {
  check('everything comes to be in time', false, error.stack);
}
await browser.close();

const abroad = requests.filter(url => !/^(file|blob|data):/.test(url));
check('nothing is asked of the network', abroad.length === 0, abroad.join(' '));
check('the console stays empty', complaints.length === 0, complaints.join('\n'));
check('the page has less than 6 MB', fs.statSync(page_file).size < 6e6);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
