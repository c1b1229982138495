// Gives the files that are chosen to take.  The choice is forgotten, for of the same files a browser does not tell twice.
function whenChosen(id, take) {
  $(id).addEventListener('change', event => {
    take([...event.target.files]);
    event.target.value = '';
  });
}

// Ties the page's controls to what they do.
function watchControls() {
  const show = (id, text) => {
    const tell = () => {
      $(`${id}-value`).textContent = text($(id).value);
      $(id).setAttribute('aria-valuetext', text($(id).value));
    };
    $(id).addEventListener('input', tell);
    tell();
  };
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
  whenChosen('open-picture', ([file]) => openPicture(file));
  $('add-class').addEventListener('click', () => {
    own.classes.push({name: `class ${own.classes.length + 1}`, pictures: []});
    showClasses();
    $(`class-${own.classes.length - 1}`).select();
  });
  whenChosen('folder', openModel);
  whenChosen('files', openModel);
  $('tiny').addEventListener('click', backToTiny);
  addEventListener('resize', redraw);
  for (const kind of ['dragover', 'drop']) addEventListener(kind, event => event.preventDefault());
}

function showColours() {
  for (const [name, colour] of Object.entries(COLOURS)) {
    const id = `colour-${name}`, choose = () => { own.pen = colour; };
    const input = element('input', {type: 'radio', name: 'colour', id, checked: name === 'red', onchange: choose});
    const label = element('label', {for: id, title: name, style: `--colour:${colour}`},
      element('span', {class: 'hidden'}, name));
    $('colours').append(element('span', {}, input, label));
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
