'use strict';
// The page as a whole, and what keeps it up to date where the run is watched.

const POLL = 2000;
let data = JSON.parse(document.getElementById('data').textContent), drawn = {};

const byId = (id) => document.getElementById(id);

function headed(lost) {
  const { head } = data, share = head.total ? Math.min(1, head.done / head.total) : 0;
  const fact = (name, value) => (value === null ? null : make('div', {}, make('dt', {}, name), make('dd', {}, value)));
  const number = (value, show) => (value === null || value === undefined ? null : show(value));
  byId('head').replaceChildren(
    make('p', { class: 'over' }, 'poa-gpu ' + data.kind + (head.times ? ', begun ' + head.times[0] + ' UTC' : '')),
    make('h1', {}, head.name),
    make('div', { class: 'line' }, make('span', { class: 'state ' + head.state }, head.state), make('span', { class: 'reason' }, head.reason)),
    make('div', { class: 'bar', role: 'progressbar', 'aria-label': 'Steps done', 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': Math.round(100 * share) }, make('div', { style: 'width:' + (100 * share).toFixed(2) + '%' })),
    make('dl', { class: 'facts' },
      fact('Steps', thousandsExact(head.done) + (head.total ? ' of ' + thousandsExact(head.total) : '')),
      fact('Images seen', number(head.images, thousands)),
      fact('Loss', number(head.loss, shown)),
      fact('Speed', number(head.pace, (pace) => shown(Math.round(pace * 10) / 10) + ' /s')),
      fact('Time so far', number(head.elapsed, duration)),
      fact('Time left', head.state === 'running' ? number(head.left, duration) : null),
      fact('Skipped steps', head.skipped ? shown(head.skipped) : null)));
  const damaged = head.damaged_lines ? ' ' + head.damaged_lines + ' lines of metrics.jsonl cannot be read and are left out.' : '';
  byId('foot').replaceChildren(lost ? 'The program that serves this page does not answer: it shows what was known at ' + head.read + ' UTC.'
    : (data.live ? 'Up to date at ' : 'Made at ') + head.read + ' UTC.' + (data.live ? ' Pictures of images are in poa-gpu report alone.' : '') + damaged);
}

function tools() {
  const value = make('output', {}, 'none');
  const slider = make('input', { type: 'range', min: 0, max: 100, value: 100 * smoothing.share, 'aria-label': 'Smoothing of the curves', on: { input: () => {
    smoothing.share = slider.value / 100;
    value.textContent = slider.value === '0' ? 'none' : slider.value + ' %';
    redraw();
  } } });
  return make('div', { class: 'tools' }, make('label', {}, 'Smoothing', slider, value), 'Point at a chart, or move through it with the arrow keys, to read values.');
}

function redraw() {
  Object.values(drawn).flat().forEach((chart) => chart.draw());
}

// Everything anew, as at the beginning or when the run has begun again.
function build() {
  headed(false);
  for (const id of Object.keys(SECTIONS)) delete SECTIONS[id];
  drawn = charts(data.curves);
  const curves = chartSections(drawn);
  const rest = [
    ...(curves.length ? [tools(), ...curves] : [make('p', { class: 'none' }, 'No numbers yet.')]),
    sweepSection(data.sweeps), ...pictureSections(data.pictures), warningSection(data.head), badSection(data.bad),
    checkpointSection(data.head), recipeSection(data),
    section('about', 'Environment', null, table(['What', 'Is'], data.about)),
  ].filter(Boolean);
  byId('main').replaceChildren(...rest);
  byId('contents').replaceChildren(...Object.entries(SECTIONS).map(([id, title]) => make('a', { href: '#' + id }, title)));
  redraw();
}

// New points; a key without a curve makes the page anew.
function add(points) {
  let fresh = false;
  for (const [key, step, value] of points) {
    const curve = data.curves[key];
    if (!curve) { data.curves[key] = [[step], [value]]; fresh = true; continue; }
    while (curve[0].length && curve[0][curve[0].length - 1] >= step) { curve[0].pop(); curve[1].pop(); }
    curve[0].push(step);
    curve[1].push(value);
    if (curve[0].length > 2 * MOST_POINTS) data.curves[key] = thinned(curve);
  }
  return fresh;
}

async function follow() {
  try {
    const answer = await fetch('/news?' + data.head.place.join('.'), { cache: 'no-store' });
    if (!answer.ok) throw new Error(answer.statusText);
    const news = await answer.json();
    const before = JSON.stringify([data.head.warnings, data.head.checkpoints]);
    if (news.points) {
      data.head = news.head;
      const fresh = add(news.points);
      if (fresh) build();
      else if (news.points.length) redraw();
      if (!fresh && JSON.stringify([data.head.warnings, data.head.checkpoints]) !== before) {
        for (const [id, made] of [['warnings', warningSection(data.head)], ['checkpoints', checkpointSection(data.head)]]) {
          if (made && byId(id)) byId(id).replaceWith(made);
          else if (made) byId('recipe').before(made);
        }
      }
      headed(false);
    } else {
      data = { ...news, live: true };
      build();
    }
  } catch {
    headed(true);
  }
  setTimeout(follow, POLL);
}

build();
if (data.live) setTimeout(follow, POLL);
