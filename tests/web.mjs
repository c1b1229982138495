// The page of `make web` in a real browser, opened from disk:  node tests/web.mjs build
//
// Numbers on the page must be those of the native program to the last printed digit: the page without SIMD is compared with
// `fvgpt tune --simd scalar`, the page with SIMD with `--simd sse2`, whose vectors are as wide.  Wants build/web/index.html,
// build/fvgpt, build/world, a Chromium, and playwright-core in build/browser (npm install --prefix build/browser
// playwright-core); where one is missing the test is skipped and says so.  Screenshots go to build/web/*.png.  WEB_LIMIT=3
// lets everything take three times as long.  The last line reads "N passed, N failed".
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

const browser_path = ['/usr/bin/chromium', '/usr/bin/google-chrome'].find(fs.existsSync);
if (!browser_path) skip('no chromium');
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
const things = path.join(work, 'native/things'), clear = path.join(work, 'clear/things');
fs.rmSync(work, {recursive: true, force: true});
fs.mkdirSync(work, {recursive: true});
execFileSync(path.join(build, 'world'), [path.join(work, 'native'), '--set', 'things'], {env});
execFileSync(path.join(build, 'world'), [path.join(work, 'clear'), '--set', 'things', '--clear', '--png', '--train', '4', '--test', '1'], {env});

// Rows of base, new and H as the program prints them.
function tuneNatively(simd) {
  const args = ['tune', '--simd', simd, '--threads', '1', '--model', 'examples/tiny-clip', '--data', things, '--trainer', 'FVGPT_CoOp',
    '--ctx-init', 'a photo of a', '--augment', 'none', '--seeds', '1', '--quiet', '--out', path.join(work, simd)];
  return new Promise(done => {
    const program = spawn(path.join(build, 'fvgpt'), args, {env});
    let out = '';
    program.stdout.on('data', text => { out += text; });
    program.on('close', () => {
      const row = name => (out.match(new RegExp(`^${name} +seed 1 +base +(\\S+) +new +(\\S+) +H +(\\S+)`, 'm')) || []).slice(1).join(' ');
      done(['zero_shot', 'CoOp', 'FVGPT_CoOp'].map(row));
    });
  });
}

// ---- the page ----
const browser = await playwright.chromium.launch({executablePath: browser_path, args: ['--no-sandbox']});
const complaints = [], requests = [];

async function open(query, options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.setDefaultTimeout(60000 * limit);
  page.on('console', message => complaints.push(message.text()));
  page.on('pageerror', error => complaints.push(error.message));
  page.on('request', request => requests.push(request.url()));
  await page.goto(`file://${page_file}${query}`);
  await page.waitForSelector('#base li canvas');
  const usable = await page.evaluate(() => performance.now());
  await page.waitForFunction(() => document.documentElement.dataset.ready);
  return {page, usable};
}

const rows = page => page.$$eval('#results tbody tr', all => all.map(r => [...r.cells].slice(1).map(c => c.textContent).join(' ')));
const shot = (page, name) => page.screenshot({path: path.join(build, 'web', `${name}.png`), fullPage: true});
const guessed = page => page.waitForSelector('#guess .bars li').then(() => page.textContent('#guess .bars li:first-child span'));
const png = (name, i) => path.join(clear, 'images', name, `00${i}.png`);

async function tuned(page) {
  await page.waitForSelector('#start:not([hidden])');
  return page.textContent('#status');
}

async function sameNumbers(query, simd) {
  const {page, usable} = await open(query, {viewport: {width: 1280, height: 900}});
  check(`${simd}: a usable screen within 3 s`, usable < 3000 * limit, `${usable.toFixed(0)} ms`);
  const began = Date.now();
  await page.click('#start');
  const status = await tuned(page);
  const seconds = (Date.now() - began) / 1000;
  check(`${simd}: things with 16 shots are tuned within 60 s`, seconds < 60 * limit, `${seconds} s`);
  check(`${simd}: the page says what came of it`, /^Tuned in .* H went from/.test(status), status);
  const here = await rows(page), native = await tuneNatively(simd);
  check(`${simd}: the numbers are the native program's`, native.every(Boolean) && here.join(' | ') === native.join(' | '),
    `${here.join(' | ')}, natively ${native.join(' | ')}`);
  console.log(`${simd}: usable after ${usable.toFixed(0)} ms, tuned in ${seconds.toFixed(1)} s, ${here.join(' | ')}`);
  return page;
}

// ---- numbers, with SIMD and without ----
const plain = await sameNumbers('?scalar', 'scalar');
check('scalar: the page says so', (await plain.textContent('#simd')) === 'without SIMD');
await plain.context().close();

const page = await sameNumbers('', 'sse2');
check('the page says that it uses SIMD', (await page.textContent('#simd')) === 'with SIMD');
const course = await page.$$eval('#accuracy-table tbody tr', all => all.length);
check('the accuracies of every round are in a table', course === 21, course);
check('a chart says in words what it shows', /taught .* new .* H/.test(await page.getAttribute('#accuracy', 'aria-label')));

// ---- where it looks ----
await page.waitForFunction(() => document.querySelectorAll('#looks figure').length === 6);
const looks = await page.textContent('#looks');
await page.check('#look-31', {force: true});
await page.waitForFunction(before => document.querySelector('#looks').textContent !== before, looks);
check('another picture has other maps', (await page.textContent('#looks')).includes('new'));
await shot(page, 'wide-light');

// ---- a picture that is dropped ----
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
check('the first drawing is a heart', (await guessed(page)) === 'heart');
for (const name of ['house', 'star']) {
  await drop('#board', [png(name, 0)]);
  await page.waitForFunction(wanted => document.querySelector('#guess .bars li span').textContent === wanted, name).catch(() => {});
  check(`a dropped ${name} is classified`, (await guessed(page)) === name, await guessed(page));
}
const nonsense = path.join(work, 'nonsense.png');
fs.writeFileSync(nonsense, 'this is no picture');
await drop('#board', [nonsense]);
await page.waitForFunction(() => document.querySelector('#guess').textContent.includes('no picture'));
check('what is no picture is told', true);

// ---- own classes ----
await drop('.class >> nth=0', [0, 1, 2, 3].map(i => png('star', i)));
await page.setInputFiles('#class-1-files', [0, 1, 2, 3].map(i => png('heart', i)));
await page.waitForFunction(() => document.querySelectorAll('.thumb').length === 8);
await page.click('#own-start');
await page.waitForFunction(() => document.querySelector('#own-result').textContent);
check('own pictures are tuned on', /^Of 2 test pictures, CLIP as it is knows \d+ %, tuned it knows \d+ %/.test(await page.textContent('#own-result')),
  await page.textContent('#own-result'));
await page.setInputFiles('#open-picture', png('heart', 4));
await page.waitForFunction(() => document.querySelectorAll('#guess .bars').length === 2);
check('tuned words classify a new picture', (await page.textContent('#guess .bars:nth-child(2) li:first-child span')) === 'heart');
await page.click('#guess button');
await page.waitForFunction(() => document.querySelectorAll('#own-looks figure').length === 3);
await shot(page, 'wide-light-own');

// ---- stop ----
await page.click('#start');
await page.waitForFunction(() => /step \d/.test(document.querySelector('#bar-text').textContent));
const stopped_at = Date.now();
await page.click('#stop');
await tuned(page);
check('stop is obeyed at once', Date.now() - stopped_at < 1000 * limit, `${Date.now() - stopped_at} ms`);
check('stop is told', (await page.textContent('#status')).startsWith('Stopped'), await page.textContent('#status'));

// ---- an own model ----
const model = name => path.resolve('examples/tiny-clip', name);
await page.setInputFiles('#files', [model('merges.txt'), model('config.json')]);
await page.waitForFunction(() => document.querySelector('#model-status').textContent.startsWith('It cannot be opened'));
check('a folder without weights is told of', /safetensors/.test(await page.textContent('#model-status')), await page.textContent('#model-status'));
await page.waitForSelector('#start:not([disabled])');
await page.setInputFiles('#files', ['config.json', 'merges.txt', 'model.safetensors'].map(model));
await page.waitForFunction(() => document.querySelector('#model-status').textContent.includes('million'));
check('a model of one\'s own opens', /million weights, pictures of 64 pixels/.test(await page.textContent('#model-status')));
await drop('#board', [png('house', 1)]);
await page.waitForFunction(() => document.querySelector('#guess .bars li span')?.textContent === 'house');
check('it classifies', true);
await page.waitForSelector('#own-start:not([disabled])');
await page.click('#own-start');
await page.waitForFunction(() => /tuned it knows/.test(document.querySelector('#own-result').textContent));
check('it is tuned', true);
await page.click('#tiny');
await page.waitForSelector('#start:not([disabled])');
await page.context().close();

// ---- a phone, in the dark, by keyboard ----
const {page: small} = await open('', {viewport: {width: 400, height: 800}, colorScheme: 'dark', deviceScaleFactor: 2, hasTouch: true});
const widths = await small.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
check('nothing is wider than 400 pixels', widths[0] <= widths[1], widths.join(' > '));
const nameless = await small.$$eval('input, select, button, canvas[tabindex], canvas[role=img], svg[role=img], progress', all => all.filter(e =>
  !e.getAttribute('aria-label') && !(e.labels && e.labels.length && [...e.labels].some(l => l.textContent.trim() || l.querySelector('[aria-label]'))) &&
  !e.textContent.trim()).map(e => e.outerHTML.slice(0, 90)));
check('every control and picture has a name', nameless.length === 0, nameless.join('\n'));

const contrast = () => {
  const channel = x => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  const luminance = colour => {
    const [r, g, b] = colour.match(/[\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  };
  const paper = luminance(getComputedStyle(document.body).backgroundColor);
  return ['.lead', '.help', '.lead strong', '.eyebrow', 'output'].map(s => luminance(getComputedStyle(document.querySelector(s)).color))
    .map(ink => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)).concat(paper);
};
const dark = await small.evaluate(contrast);
check('dark: the paper is dark, and text stands out 4.5 to 1', dark.pop() < 0.05 && dark.every(x => x >= 4.5), dark.join(' '));
await small.emulateMedia({colorScheme: 'light'});
const light = await small.evaluate(contrast);
check('light: the paper is light, and text stands out 4.5 to 1', light.pop() > 0.8 && light.every(x => x >= 4.5), light.join(' '));

async function tabTo(id) {
  for (let i = 0; i < 80; i++) {
    if (await small.evaluate(wanted => document.activeElement.id === wanted, id)) return true;
    await small.keyboard.press('Tab');
  }
  return false;
}
check('keyboard: shots are set', await tabTo('shots'));
for (let i = 0; i < 14; i++) await small.keyboard.press('ArrowLeft');
check('keyboard: the slider says so', (await small.textContent('#shots-value')) === '2', await small.textContent('#shots-value'));
check('keyboard: the button is reached', await tabTo('start'));
await small.keyboard.press('Enter');
await small.waitForSelector('#stop:not([hidden])');
check('keyboard: tuning leaves the focus on Stop', await small.evaluate(() => document.activeElement.id === 'stop'));
check('keyboard: tuning ends', /^Tuned/.test(await tuned(small)), await small.textContent('#status'));
check('keyboard: the board is reached', await tabTo('board'));
const before = await small.evaluate(() => document.getElementById('board').toDataURL());
await small.keyboard.press('Space');
for (let i = 0; i < 6; i++) await small.keyboard.press('ArrowRight');
await small.keyboard.press('Space');
check('keyboard: it draws', before !== await small.evaluate(() => document.getElementById('board').toDataURL()));
await small.waitForFunction(() => document.querySelectorAll('#looks figure').length === 6);
await shot(small, 'narrow-light');
await small.emulateMedia({colorScheme: 'dark'});
await shot(small, 'narrow-dark');
await small.setViewportSize({width: 1280, height: 900});
await small.waitForTimeout(300);
await shot(small, 'wide-dark');
await browser.close();

// ---- quiet ----
const abroad = requests.filter(url => !url.startsWith(`file://${page_file}`) && !url.startsWith('blob:') && !url.startsWith('data:'));
check('nothing is asked of the network', abroad.length === 0, abroad.join(' '));
check('the console stays empty', complaints.length === 0, complaints.join('\n'));
check('the page has less than 6 MB', fs.statSync(page_file).size < 6e6);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
