'use strict';
// Elements, numbers and times as they are shown. Texts of the run become text nodes alone, never markup.

const SVG = 'http:' + '//www.w3.org/2000/svg';

function make(name, options, ...children) {
  const { svg, on, ...attributes } = options || {};
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? '' : value);
  }
  for (const [event, handler] of Object.entries(on || {})) element.addEventListener(event, handler);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A number of a few digits, as 0.0213, 12.4, 3.1e-5 or 38,400.
function shown(x) {
  if (x === null || x === undefined || !Number.isFinite(x)) return '–';
  const size = Math.abs(x);
  if (x === 0) return '0';
  if (size >= 1e15 || size < 1e-4) return x.toExponential(2);
  if (Number.isInteger(x)) return x.toLocaleString('en-US');
  if (size >= 1000) return x.toLocaleString('en-US', { maximumFractionDigits: 1 });
  return String(Number(x.toPrecision(4)));
}

// A number with its power of a thousand, as 38.4 k.
function thousands(x) {
  const names = ['', ' k', ' M', ' G', ' T', ' P'];
  let power = 0;
  while (Math.abs(x) >= 999.5 && power + 1 < names.length) { x /= 1000; power += 1; }
  return Number(x.toPrecision(3)) + names[power];
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const s = Math.round(seconds), two = (n) => String(n).padStart(2, '0');
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min ' + two(s % 60) + ' s';
  if (s < 86400) return Math.floor(s / 3600) + ' h ' + two(Math.floor(s / 60) % 60) + ' min';
  return Math.floor(s / 86400) + ' d ' + two(Math.floor(s / 3600) % 24) + ' h';
}

// Round numbers that divide a range into about so many parts.
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999) * power;
  if (!(step > 0) || !Number.isFinite(step)) return [low];
  const all = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && all.length < 50; i++) {
    all.push(Number((i * step).toPrecision(12)));
  }
  return all;
}

// Powers of ten of a range; of a short one also their double and fivefold.
function logTicks(low, high) {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  const every = Math.max(1, Math.ceil((to - from) / 6)), all = [];
  for (let power = from; power <= to; power += every) {
    for (const factor of to - from < 3 ? [1, 2, 5] : [1]) {
      const value = factor * 10 ** power;
      if (value >= low * 0.999 && value <= high * 1.001) all.push(value);
    }
  }
  return all;
}
