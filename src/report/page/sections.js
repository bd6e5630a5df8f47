'use strict';
// The sections of the page, each made of the data; `null` where there is nothing to say.

const SECTIONS = {};

function section(id, title, text, ...children) {
  SECTIONS[id] = title;
  return make('section', { id, 'aria-labelledby': id + '-title' }, make('h2', { id: id + '-title' }, title), text ? make('p', {}, text) : null, ...children);
}

const seriesOf = (curves, keys, name = (key) => key) => keys.map((key) => ({ name: name(key), data: () => curves[key] }));

// Which numbers belong into one chart. A key is taken by the first group that wants it.
const GROUPS = [
  { section: 'curves', title: 'Loss', wide: true, wants: (key) => key === 'loss' },
  { section: 'curves', title: 'Loss of class tokens', wants: (key) => /^(dino|distill)_.*loss/.test(key), name: (key) => key.replace('_crops_loss', '').replaceAll('_', ' ') },
  { section: 'curves', title: 'Other parts of the loss', wants: (key) => /loss/.test(key) && key !== 'loss_scale', name: (key) => key.replaceAll('_', ' ') },
  { section: 'health', title: 'Entropy of the targets', unit: 'nats', wants: (key) => key.startsWith('target_entropy'), name: (key) => 'head ' + key.split('_').pop() },
  { section: 'health', title: 'Students from the targets', unit: 'KL, nats', wants: (key) => key.startsWith('target_kl'), name: (key) => 'head ' + key.split('_').pop() },
  { section: 'health', title: 'Spread of the features', unit: '0 to 1', wants: (key) => key === 'feature_std' },
  { section: 'health', title: 'Norms of the gradients', log: true, wants: (key) => key.startsWith('grad_norm.'), name: (key) => key.slice(10) },
  { section: 'schedules', title: 'Learning rate', wants: (key) => key === 'lr' },
  { section: 'schedules', title: 'Weight decay', wants: (key) => key === 'weight_decay' },
  { section: 'schedules', title: 'Temperature of the teacher', wants: (key) => key === 'teacher_temp' },
  { section: 'schedules', title: 'Momentum of the teacher', wants: (key) => key === 'teacher_momentum' },
  { section: 'schedules', title: 'Loss scale', log: true, wants: (key) => key === 'loss_scale' },
  { section: 'speed', title: 'Speed', unit: 'images/s', wants: (key) => key === 'time.images_per_second' },
  { section: 'speed', title: 'Time spent waiting for images', unit: '%', percent: true, wants: (key) => key === 'time.waiting_share' },
];
const QUIET = /^(images|epoch|effective_epoch|skipped|knn_images|time\..*)$/;

// All charts by section; `known` are keys that have one already.
function charts(curves) {
  const left = new Set(Object.keys(curves)), bySection = {};
  const add = (id, options) => (bySection[id] ||= []).push(new Chart(options));
  for (const group of GROUPS) {
    const keys = [...left].filter((key) => group.wants(key)).sort();
    keys.forEach((key) => left.delete(key));
    if (keys.length) add(group.section, { ...group, series: seriesOf(curves, keys, group.name || ((key) => key)) });
  }
  const knn = [...left].filter((key) => /^knn\..+\.\d+$/.test(key));
  knn.forEach((key) => left.delete(key));
  const split = (key) => [key.slice(4, key.lastIndexOf('.')), Number(key.slice(key.lastIndexOf('.') + 1))];
  for (const k of [...new Set(knn.map((key) => split(key)[1]))].sort((a, b) => a - b)) {
    const keys = knn.filter((key) => split(key)[1] === k);
    add('accuracy', { title: 'k-NN accuracy, k = ' + k, unit: '%', percent: true, series: seriesOf(curves, keys, (key) => split(key)[0]) });
  }
  const scores = { 'eval.top1': 'top-1', 'eval.top5': 'top-5', 'eval.miou': 'mIoU', 'eval.macc': 'mean accuracy', 'eval.aacc': 'pixel accuracy' };
  const evals = [...left].filter((key) => key in scores);
  evals.forEach((key) => left.delete(key));
  if (evals.length) add('accuracy', { title: 'Accuracy on held-out images', unit: '%', percent: true, series: seriesOf(curves, evals, (key) => scores[key]) });
  for (const key of [...left].filter((key) => !QUIET.test(key)).slice(0, 24)) add('others', { title: key, series: seriesOf(curves, [key]) });
  return bySection;
}

const ABOUT = {
  accuracy: ['Accuracy', 'Of the teacher’s sub-networks on images that were held out.'],
  curves: ['Loss', 'The sum that is minimised, and its parts. Losses against a moving teacher need not fall all the time.'],
  health: ['Health', 'Entropy near its largest value says that targets are uniform; a spread near 0 that features have collapsed.'],
  schedules: ['Schedules', null],
  speed: ['Speed', null],
  others: ['Other numbers', null],
};

function chartSections(bySection) {
  return Object.keys(ABOUT).filter((id) => bySection[id]).map((id) =>
    section(id, ...ABOUT[id], make('div', { class: 'grid' }, ...bySection[id].map((chart) => chart.element))));
}

// Accuracy over width and depth as cells, the best network of each.
class Surface {
  constructor(title, rows, score) {
    this.cells = new Map();
    for (const [network, n] of rows) {
      const key = n[0] + 'x' + n[1], known = this.cells.get(key);
      if (!known || n[4 + score] > known.value) this.cells.set(key, { network, width: n[0], depth: n[1], parameters: n[2], flops: n[3], value: n[4 + score] });
    }
    this.plot = make('div', { class: 'chart', tabindex: 0, role: 'img' });
    this.readout = make('p', { class: 'readout' });
    this.element = make('div', { class: 'card' }, make('h3', {}, title), this.plot, this.readout);
    this.list = [...this.cells.values()];
    this.best = this.list.reduce((a, b) => (b.value > a.value ? b : a));
    this.plot.setAttribute('aria-label', title + ', ' + this.list.length + ' cells; best ' + this.best.network + ' with ' + shown(100 * this.best.value) + ' %. Arrow keys read single cells.');
    this.plot.addEventListener('keydown', (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!by) return;
      event.preventDefault();
      this.at = ((this.at ?? this.list.indexOf(this.best)) + by + this.list.length) % this.list.length;
      this.tell(this.list[this.at]);
    });
    // drawn in the next frame: a chart that changes its height while sizes are told would tell them again
    new ResizeObserver(() => requestAnimationFrame(() => { if (Math.abs(this.plot.clientWidth - (this.width || 0)) > 1) this.draw(); })).observe(this.plot);
    this.tell(this.best);
  }

  tell(cell) {
    this.readout.replaceChildren(make('b', {}, cell.network + ': ' + shown(100 * cell.value) + ' %'),
      ' · ' + thousands(cell.parameters) + ' parameters · ' + thousands(cell.flops) + ' FLOPs an image' + (cell === this.best ? ' · the best' : ''));
  }

  draw() {
    const width = this.width = this.plot.clientWidth || 480, box = { left: 46, right: 6, top: 8, bottom: 42 };
    const widths = [...new Set(this.list.map((c) => c.width))].sort((a, b) => a - b), depths = [...new Set(this.list.map((c) => c.depth))].sort((a, b) => a - b);
    const height = Math.max(150, Math.min(360, depths.length * 46 + box.top + box.bottom));
    const w = (width - box.left - box.right) / widths.length, h = (height - box.top - box.bottom) / depths.length;
    const low = Math.min(...this.list.map((c) => c.value)), high = this.best.value;
    const svg = make('svg', { svg: true, viewBox: '0 0 ' + width + ' ' + height, width, height, 'aria-hidden': 'true' });
    for (const cell of this.list) {
      const x = box.left + widths.indexOf(cell.width) * w, y = height - box.bottom - (depths.indexOf(cell.depth) + 1) * h;
      const share = 4 + 42 * (high > low ? (cell.value - low) / (high - low) : 1), tell = () => this.tell(cell);
      svg.append(make('rect', { svg: true, x: x + 1, y: y + 1, width: Math.max(1, w - 2), height: Math.max(1, h - 2), rx: Math.min(4, w / 6),
        style: 'fill:color-mix(in srgb, var(--accent) ' + share.toFixed(1) + '%, var(--card));stroke:' + (cell === this.best ? 'var(--accent)' : 'var(--line)'),
        on: { pointerenter: tell, pointerdown: tell } }));
      if (w > 36 && h > 18) svg.append(make('text', { svg: true, class: 'strong', x: x + w / 2, y: y + h / 2 + 4, 'text-anchor': 'middle', style: 'pointer-events:none' }, (100 * cell.value).toFixed(1)));
    }
    const every = (all, room) => Math.max(1, Math.ceil(room / ((width - box.left) / all.length)));
    widths.forEach((value, i) => i % every(widths, 34) === 0 && svg.append(make('text', { svg: true, x: box.left + (i + 0.5) * w, y: height - box.bottom + 18, 'text-anchor': 'middle' }, String(value))));
    const rows = Math.max(1, Math.ceil(16 / h));
    depths.forEach((value, i) => i % rows === 0 && svg.append(make('text', { svg: true, x: box.left - 8, y: height - box.bottom - (i + 0.5) * h + 4, 'text-anchor': 'end' }, String(value))));
    svg.append(make('text', { svg: true, x: width - box.right, y: height - 5, 'text-anchor': 'end' }, 'width'), make('text', { svg: true, x: 0, y: height - 5 }, 'depth upwards'));
    this.plot.replaceChildren(svg);
  }
}

// Accuracy over cost with the front: the networks that no cheaper one equals.
function front(title, x, rows, column, score) {
  const all = rows.map(([network, n]) => ({ network, cost: n[column], value: n[4 + score] })).sort((a, b) => a.cost - b.cost || b.value - a.value);
  let best = -Infinity;
  const edge = all.filter((one) => one.value > best && ((best = one.value), true));
  const series = (name, list) => ({ name, labels: list.map((one) => one.network), data: () => [list.map((one) => one.cost), list.map((one) => one.value)] });
  return new Chart({ title, unit: '%', x, percent: true, logX: true, dots: true, series: [series('front', edge), series('others', all.filter((one) => !edge.includes(one)))].filter((one) => one.labels.length),
    note: 'On the front: ' + edge.map((one) => one.network).slice(0, 12).join(', ') });
}

function sweepSection(sweeps) {
  if (!sweeps || !sweeps.length) return null;
  const content = make('div', { class: 'grid' }), pick = make('select', { 'aria-label': 'Table and score' });
  sweeps.forEach((sweep, i) => sweep.scores.forEach((score, j) => pick.append(make('option', { value: i + ' ' + j }, sweep.name + ': ' + score))));
  pick.selectedIndex = pick.options.length - 1;
  const drawn = () => {
    const [i, j] = pick.value.split(' ').map(Number), { rows, scores } = sweeps[i];
    const charts = [new Surface('Accuracy over width and depth, ' + scores[j] + ' (%)', rows, j)];
    if (rows.length > 1) charts.push(front('Accuracy over parameters', 'parameters', rows, 2, j), front('Accuracy over FLOPs', 'FLOPs an image', rows, 3, j));
    content.replaceChildren(...charts.map((chart) => chart.element));
    charts.forEach((chart) => chart.draw());
  };
  pick.addEventListener('change', drawn);
  drawn();
  return section('networks', 'Sub-networks', 'Every network of the grid, cut out of the same checkpoint. The front are those that no cheaper one equals.',
    make('div', { class: 'tools' }, make('label', {}, 'Table', pick)), content);
}

// Only what this program drew itself.
const picture = (uri, alt, width) => (/^data:image\/png;base64,[A-Za-z0-9+/=]+$/.test(uri) ? make('img', { src: uri, alt, width }) : null);

function pictureSections(pictures) {
  if (!pictures) return [];
  const all = [];
  if (pictures.crops.length) {
    all.push(section('crops', 'Example crops', 'What the loader made of the first images of the run. Orange cells are hidden from the students; in segmentation colours are classes.',
      make('div', { class: 'grid' }, ...pictures.crops.map((image, i) => make('div', { class: 'card' }, make('div', { class: 'pictures' },
        ...image.parts.map((part) => make('figure', { class: 'crop' }, picture(part.picture, part.label + ' crop of image ' + (i + 1), part.label === 'local' ? 76 : 132),
          make('figcaption', {}, part.label + ', ' + part.size + ' px')))))))));
  }
  if (pictures.seen.length) {
    const { network, step } = pictures.seen[0];
    all.push(section('seen', 'What the network sees', 'Network ' + network + ' of the teacher after ' + thousandsExact(step) + ' steps. Components: the first three principal components of its patch tokens as red, green and blue; equal colours mean the same in all images. Attention: of the class token in the last block, by head.',
      make('div', { class: 'grid' }, ...pictures.seen.map((one) => make('div', { class: 'card' }, make('h3', {}, one.name), make('div', { class: 'pictures' },
        make('figure', {}, picture(one.input, 'image ' + one.name, 150), make('figcaption', {}, 'image')),
        make('figure', {}, picture(one.components, 'components of ' + one.name, 150), make('figcaption', {}, 'components'))),
        one.attention ? make('details', {}, make('summary', {}, 'Attention'), make('figure', {}, picture(one.attention, 'attention on ' + one.name, null))) : null)))));
  }
  if (pictures.why.length) all.push(section('why', 'Pictures that are missing', null, ...pictures.why.map((text) => make('p', {}, text))));
  return all;
}

function table(heads, rows, numbers = []) {
  const cell = (name) => (value, i) => make(name, { class: numbers.includes(i) ? 'n' : null, scope: name === 'th' ? 'col' : null }, value);
  return make('div', { class: 'card scroll', tabindex: 0, role: 'region', 'aria-label': heads.join(', ') }, make('table', {}, make('thead', {}, make('tr', {}, ...heads.map(cell('th')))), make('tbody', {}, ...rows.map((row) => make('tr', {}, ...row.map(cell('td')))))));
}

function warningSection(head) {
  if (!head.warnings.length) return section('warnings', 'Warnings', null, make('p', { class: 'none' }, 'None.'));
  const of = (w) => make('li', { class: 'card' }, make('p', {}, w.text), w.meaning ? make('p', { class: 'means' }, w.meaning) : null,
    make('p', { class: 'when' }, w.count > 1 ? w.count + ' times, from ' + w.first + ' to ' + w.last + ' UTC' : w.first + ' UTC'));
  return section('warnings', 'Warnings', 'What the run said, with what to do; those that differ in numbers alone are one.', make('ul', { class: 'warnings' }, ...head.warnings.map(of)));
}

function badSection(bad) {
  if (!bad || !bad.count) return null;
  const more = bad.count > bad.first.length ? ', the first ' + bad.first.length : '';
  return section('bad', 'Images that cannot be used', shown(bad.count) + ' of them' + more + '.', table(['Kind', 'Image', 'Why'], bad.first));
}

function checkpointSection(head) {
  if (!head.checkpoints.length) return null;
  const rows = head.checkpoints.map((c) => [thousandsExact(c.step), thousands(c.bytes) + 'B', c.time || '–']);
  return section('checkpoints', 'Checkpoints', null, table(['Steps', 'Size', 'Written'], rows, [0, 1]));
}

function recipeSection(data) {
  if (!data.config) return section('recipe', 'Recipe', null, make('p', { class: 'none' }, data.config_problem || 'There is none.'));
  const text = make('pre', { tabindex: 0, 'aria-label': 'config.toml' }, data.config);
  const copy = make('button', { type: 'button', on: { click: async () => {
    try {
      await navigator.clipboard.writeText(data.config);
    } catch {
      // from a file the clipboard may be closed: the text is selected, to be copied by hand or by the old command
      text.parentElement.open = true;
      getSelection().selectAllChildren(text);
      document.execCommand('copy');
    }
    copy.textContent = 'Copied';
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  } } }, 'Copy');
  return section('recipe', 'Recipe', null, make('div', { class: 'card' }, make('div', { class: 'top' }, make('span', { class: 'none' }, 'config.toml'), copy), make('details', {}, make('summary', {}, 'Show'), text)));
}
