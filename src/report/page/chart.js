'use strict';
// A chart of curves, or of points, as SVG in units of a pixel; drawn anew where its width or its data change.

const PALETTE = 8, DASHES = ['', '6 4', '2 3', '9 3 2 3'];
const HEIGHT = 270, MOST_POINTS = 4000;
// shared by all curves: the width of the smoothing, as a share of it
const smoothing = { share: 0.0 };

const colour = (i) => 'var(--c' + (i % PALETTE) + ')';
const dash = (i) => DASHES[Math.floor(i / PALETTE) % DASHES.length];

// Exponential averages, begun anew after a gap, of values that lie at these steps.
function smoothed(steps, values, share) {
  if (!(share > 0)) return values;
  const span = (steps[steps.length - 1] - steps[0]) * share * 0.15;
  let mean = null, last = null;
  return values.map((value, i) => {
    if (value === null) { mean = null; return null; }
    const keep = mean === null || !(span > 0) ? 0 : Math.exp(-(steps[i] - last) / span);
    mean = mean === null ? value : keep * mean + (1 - keep) * value;
    last = steps[i];
    return mean;
  });
}

// The lowest and the highest of neighbours, so that a curve has no more points than can be drawn.
function thinned([steps, values]) {
  if (steps.length <= MOST_POINTS) return [steps, values];
  const each = Math.ceil(steps.length / (MOST_POINTS / 4)), out = [[], []];
  for (let from = 0; from < steps.length; from += each) {
    let low = -1, high = -1, gap = -1;
    for (let i = from; i < Math.min(from + each, steps.length); i++) {
      if (values[i] === null) { gap = i; continue; }
      if (low < 0 || values[i] < values[low]) low = i;
      if (high < 0 || values[i] > values[high]) high = i;
    }
    const kept = [...new Set([low, high, gap])].filter((i) => i >= 0).sort((a, b) => a - b);
    for (const i of kept) { out[0].push(steps[i]); out[1].push(values[i]); }
  }
  const end = steps.length - 1;
  if (out[0][out[0].length - 1] !== steps[end]) { out[0].push(steps[end]); out[1].push(values[end]); }
  return out;
}

class Chart {
  // series: [{ name, data: () => [steps, values] }]
  constructor({ title, unit, x = 'steps', series, log = false, logX = false, dots = false, percent = false, wide = false, note = null }) {
    Object.assign(this, { title, unit, x, series, log, logX, dots, percent, note, hidden: new Set(), at: null });
    this.plot = make('div', { class: 'chart', tabindex: 0, role: 'img' });
    this.readout = make('p', { class: 'readout' });
    this.legend = make('ul', { class: 'legend', 'aria-label': 'Curves of ' + title });
    const scale = make('button', { type: 'button', 'aria-pressed': String(log), title: 'Logarithmic scale', on: { click: () => {
      this.log = !this.log;
      scale.setAttribute('aria-pressed', String(this.log));
      this.draw();
    } } }, 'log');
    scale.setAttribute('aria-label', 'Logarithmic scale of ' + title);
    this.element = make('div', { class: wide ? 'card wide' : 'card' },
      make('div', { class: 'top' }, make('h3', {}, title + (unit ? ' (' + unit + ')' : '')), scale), this.plot, this.readout, this.legend);
    const move = (event) => this.point(event.clientX);
    this.plot.addEventListener('pointermove', move);
    this.plot.addEventListener('pointerdown', move);
    this.plot.addEventListener('pointerleave', (event) => { if (event.pointerType === 'mouse') this.show(null); });
    this.plot.addEventListener('blur', () => this.show(null));
    this.plot.addEventListener('keydown', (event) => this.key(event));
    this.legended();
    // drawn in the next frame: a chart that changes its height while sizes are told would tell them again
    new ResizeObserver(() => requestAnimationFrame(() => { if (Math.abs(this.plot.clientWidth - (this.width || 0)) > 1) this.draw(); })).observe(this.plot);
  }

  legended() {
    this.legend.replaceChildren(...this.series.map((one, i) => {
      const button = make('button', { type: 'button', 'aria-pressed': String(!this.hidden.has(one.name)), on: { click: () => {
        if (!this.hidden.delete(one.name)) this.hidden.add(one.name);
        button.setAttribute('aria-pressed', String(!this.hidden.has(one.name)));
        this.draw();
      } } }, make('i', { style: 'color:' + colour(i) }), one.name);
      return make('li', {}, button);
    }));
    this.legend.hidden = this.series.length < 2;
  }

  // The curves that are to be seen, and the ranges of both axes.
  gather() {
    this.curves = this.series.map((one, i) => ({ one, i })).filter(({ one }) => !this.hidden.has(one.name)).map(({ one, i }) => {
      const [steps, raw] = thinned(one.data());
      const usable = raw.map((v) => (v === null || (this.log && v <= 0) ? null : this.percent ? 100 * v : v));
      const values = this.dots ? usable : smoothed(steps, usable, smoothing.share);
      return { name: one.name, labels: one.labels, i, steps, raw: usable, values };
    });
    const xs = this.curves.flatMap((curve) => curve.steps.filter((x) => !this.logX || x > 0));
    // smoothed curves set the range: a spike does not flatten the rest, but for raw ones
    const ys = this.curves.flatMap((curve) => (smoothing.share > 0 && !this.dots ? curve.values : curve.raw).filter((v) => v !== null));
    const range = (all, log) => {
      let low = all.reduce((a, b) => Math.min(a, b), Infinity), high = all.reduce((a, b) => Math.max(a, b), -Infinity);
      if (!Number.isFinite(low)) return null;
      if (log) { const room = (high / low) ** 0.04 * 1.01; return [low / room, high * room]; }
      const room = high > low ? (high - low) * 0.05 : Math.abs(high) * 0.05 || 1;
      return [low >= 0 && low < room * 2 ? 0 : low - room, high + room];
    };
    const y = range(ys, this.log);
    if (!y || !xs.length) return null;
    let x = [xs.reduce((a, b) => Math.min(a, b)), xs.reduce((a, b) => Math.max(a, b))];
    if (this.logX || this.dots) x = range(xs, this.logX);
    if (x[0] === x[1]) x = [x[0] - 0.5, x[1] + 0.5];
    return { x, y };
  }

  draw() {
    const width = this.width = this.plot.clientWidth || 480;
    const box = { left: 58, right: 14, top: 12, bottom: 42 };
    const ranges = this.gather();
    const svg = make('svg', { svg: true, viewBox: '0 0 ' + width + ' ' + HEIGHT, width, height: HEIGHT, 'aria-hidden': 'true' });
    this.plot.replaceChildren(svg);
    this.ranges = ranges;
    this.plot.setAttribute('aria-label', this.describe());
    if (!ranges) {
      svg.append(make('text', { svg: true, x: width / 2, y: HEIGHT / 2, 'text-anchor': 'middle' }, 'nothing to show yet'));
      this.show(null);
      return;
    }
    const scale = ([low, high], from, to, log) => {
      const f = log ? Math.log10 : (v) => v, a = f(low), b = f(high);
      return (v) => from + ((f(v) - a) / (b - a)) * (to - from);
    };
    const X = this.X = scale(ranges.x, box.left, width - box.right, this.logX);
    const Y = this.Y = scale(ranges.y, HEIGHT - box.bottom, box.top, this.log);
    this.box = box;
    for (const tick of this.log ? logTicks(...ranges.y) : ticks(...ranges.y, 5)) {
      svg.append(
        make('line', { svg: true, class: 'gridline', x1: box.left, x2: width - box.right, y1: Y(tick), y2: Y(tick) }),
        make('text', { svg: true, x: box.left - 8, y: Y(tick) + 4, 'text-anchor': 'end' }, Math.abs(tick) >= 1e4 ? thousands(tick) : shown(tick)));
    }
    const bottom = HEIGHT - box.bottom;
    svg.append(make('line', { svg: true, class: 'axis', x1: box.left, x2: width - box.right, y1: bottom, y2: bottom }));
    for (const tick of this.logX ? logTicks(...ranges.x) : ticks(...ranges.x, Math.max(2, width / 110))) {
      svg.append(
        make('line', { svg: true, class: 'axis', x1: X(tick), x2: X(tick), y1: bottom, y2: bottom + 5 }),
        make('text', { svg: true, x: X(tick), y: bottom + 19, 'text-anchor': 'middle' }, thousands(tick)));
    }
    svg.append(make('text', { svg: true, x: width - box.right, y: HEIGHT - 5, 'text-anchor': 'end' }, this.x));
    for (const curve of this.curves) this.curve(svg, curve);
    this.marks = make('g', { svg: true });
    svg.append(this.marks);
    this.show(this.at);
  }

  curve(svg, curve) {
    const { X, Y } = this, style = 'stroke:' + colour(curve.i);
    const path = (values) => {
      let text = '', pen = false;
      curve.steps.forEach((step, i) => {
        if (values[i] === null) { pen = false; return; }
        const alone = !pen && (i + 1 === values.length || values[i + 1] === null);
        text += (pen ? 'L' : 'M') + X(step).toFixed(1) + ' ' + Y(values[i]).toFixed(1) + (alone ? 'h.1' : '');
        pen = true;
      });
      return text;
    };
    const clip = (d, name) => d && svg.append(make('path', { svg: true, class: name, d, style, 'stroke-dasharray': dash(curve.i) || null }));
    if (!this.dots) {
      if (smoothing.share > 0) clip(path(curve.raw), 'curve raw');
      clip(path(curve.values), 'curve');
    } else if (curve.name === 'front') {
      clip(path(curve.values), 'curve');
    }
    if (this.dots || curve.steps.length <= 40) {
      curve.steps.forEach((step, i) => curve.values[i] !== null && (!this.logX || step > 0) && svg.append(
        make('circle', { svg: true, cx: X(step), cy: Y(curve.values[i]), r: this.dots ? 4.5 : 3, style: 'fill:' + colour(curve.i) })));
    }
  }

  // What somebody hears who does not see it.
  describe() {
    if (!this.ranges) return this.title + ': nothing to show yet';
    const last = (curve) => curve.values.reduce((a, v) => (v === null ? a : v), null);
    const all = this.curves.slice(0, 6).map((curve) => curve.name + ' last ' + shown(last(curve)));
    return this.title + ' over ' + this.x + ': ' + all.join(', ') + '. Arrow keys read single points.';
  }

  point(clientX) {
    if (!this.ranges) return;
    const place = this.plot.getBoundingClientRect(), x = ((clientX - place.left) * this.width) / place.width;
    let best = null;
    for (const step of this.steps()) if (best === null || Math.abs(this.X(step) - x) < Math.abs(this.X(best) - x)) best = step;
    this.show(best);
  }

  steps() {
    return [...new Set(this.curves.flatMap((curve) => curve.steps.filter((x) => !this.logX || x > 0)))].sort((a, b) => a - b);
  }

  key(event) {
    if (!this.ranges) return;
    const all = this.steps(), now = this.at === null ? -1 : all.indexOf(this.at);
    const far = Math.max(1, Math.round(all.length / 20));
    const to = { ArrowRight: now + 1, ArrowLeft: now < 0 ? all.length - 1 : now - 1, PageDown: now + far, PageUp: now - far, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === 'Escape') this.show(null);
    if (to === undefined) return;
    event.preventDefault();
    this.readout.setAttribute('aria-live', 'polite');
    this.show(all[Math.max(0, Math.min(all.length - 1, to))]);
  }

  // The values at a step: the last that a curve has until there.
  show(step) {
    this.at = step;
    if (!this.marks || !this.ranges) { this.readout.textContent = this.note || ''; return; }
    this.marks.replaceChildren();
    if (step === null) { this.readout.textContent = this.note || ''; return; }
    const parts = [make('b', {}, thousandsExact(step) + ' ' + this.x)];
    this.marks.append(make('line', { svg: true, class: 'cursor', x1: this.X(step), x2: this.X(step), y1: this.box.top, y2: HEIGHT - this.box.bottom }));
    for (const curve of this.curves) {
      let at = -1;
      curve.steps.forEach((x, i) => { if (x <= step && (!this.dots || x === step)) at = i; });
      if (at < 0) continue;
      const value = curve.values[at], name = curve.labels ? curve.labels[at] : curve.name;
      parts.push(' · ' + name + ' ', make('b', {}, value === null ? 'not finite' : shown(value) + (this.percent ? ' %' : '')));
      if (value !== null) this.marks.append(make('circle', { svg: true, cx: this.X(curve.steps[at]), cy: this.Y(value), r: 4, style: 'fill:' + colour(curve.i) }));
    }
    this.readout.replaceChildren(...parts);
  }
}

const thousandsExact = (x) => (Number.isInteger(x) ? x.toLocaleString('en-US') : shown(x));
