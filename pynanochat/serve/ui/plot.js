// A small line chart as SVG: smoothed and raw curves over steps, with a read-out that follows the pointer or arrow keys.

import { h, svg } from "./dom.js";

const SIZE = { width: 520, height: 220, left: 54, right: 14, top: 12, bottom: 26 };

export class Plot {
  // `spec` is {title, unit, format(value)}; `onStep(step or null)` tells which step is pointed at.
  constructor(spec, onStep) {
    this.spec = spec;
    this.onStep = onStep;
    this._picture = svg("svg", {
      viewBox: `0 0 ${SIZE.width} ${SIZE.height}`,
      class: "plot",
      role: "img",
      tabindex: "0",
    });
    this._read = h("span", { class: "plot-read" });
    this._legend = h("ul", { class: "plot-legend" });
    const head = h(
      "figcaption",
      {},
      h("span", { class: "plot-title" }, spec.title),
      h("span", { class: "plot-unit" }, spec.unit),
      this._read,
    );
    this.element = h("figure", { class: "plot-card" }, head, this._legend, this._picture);
    this._picture.addEventListener("pointermove", (event) => onStep(this._stepAt(event.clientX)));
    this._picture.addEventListener("pointerleave", () => onStep(null));
    this._picture.addEventListener("keydown", (event) => this._key(event));
    this._picture.addEventListener("blur", () => onStep(null));
  }

  // Draw series: [{name, colour (a class), points: [[step, value], ...], faint, dots}].
  draw(series) {
    this.series = series.filter((one) => one.points.length);
    const all = this.series.flatMap((one) => one.points);
    if (!all.length) return;
    const steps = all.map((point) => point[0]);
    const values = this.series.flatMap((one) => trimmed(one)).map((point) => point[1]);
    this.x = scale(Math.min(...steps), Math.max(...steps), SIZE.left, SIZE.width - SIZE.right);
    const [low, high] = padded(Math.min(...values), Math.max(...values), this.spec.fromZero);
    this.y = scale(low, high, SIZE.height - SIZE.bottom, SIZE.top);
    this._marker = svg("g", { class: "plot-marker" });
    this._picture.replaceChildren(...this._axes(), ...this.series.map((one) => this._curve(one)), this._marker);
    this._drawLegend();
    this._picture.setAttribute("aria-label", this._summary());
    this.point(this._step ?? null);
  }

  // Mark a step, or none, and show the values there; without one, the newest.
  point(step) {
    this._step = step;
    if (!this.series?.length) return;
    const shown = this.series.filter((one) => !one.faint);
    const near = shown.map((one) => ({ one, point: step === null ? one.points.at(-1) : nearest(one.points, step) }));
    const values = near.map(({ point }) => this.spec.format(point[1]));
    this._read.textContent = values.length === 1 ? values[0] : "";
    if (values.length > 1) [...this._legend.children].forEach((item, i) => (item.lastChild.textContent = values[i]));
    if (step === null) return this._marker.replaceChildren();
    const at = this.x(near[0].point[0]);
    const dots = near.map(({ one, point }) =>
      svg("circle", { cx: this.x(point[0]), cy: this.y(point[1]), r: 4, class: `dot ${one.colour}` }),
    );
    const line = svg("line", { x1: at, x2: at, y1: SIZE.top, y2: SIZE.height - SIZE.bottom });
    return this._marker.replaceChildren(line, ...dots);
  }

  _axes() {
    const y = ticks(...this.y.domain, 4).map((value) => {
      const at = this.y(value);
      return [
        svg("line", { x1: SIZE.left, x2: SIZE.width - SIZE.right, y1: at, y2: at, class: "grid" }),
        svg("text", { x: SIZE.left - 8, y: at + 4, class: "tick end" }, this.spec.format(value)),
      ];
    });
    const x = ticks(...this.x.domain, 5).map((value) =>
      svg("text", { x: this.x(value), y: SIZE.height - 7, class: "tick middle" }, value.toLocaleString("en-US")),
    );
    return [...y.flat(), ...x];
  }

  _curve({ points, colour, faint, dots }) {
    const clamp = (value) => Math.min(SIZE.height - SIZE.bottom, Math.max(SIZE.top, value));
    const d = points
      .map(([step, value], i) => `${i ? "L" : "M"}${this.x(step).toFixed(1)} ${clamp(this.y(value)).toFixed(1)}`)
      .join("");
    const path = svg("path", { d, class: `curve ${colour}${faint ? " faint" : ""}` });
    if (!dots || points.length > 40) return path;
    return svg(
      "g",
      {},
      path,
      ...points.map(([step, value]) =>
        svg("circle", { cx: this.x(step), cy: this.y(value), r: 3, class: `dot ${colour}` }),
      ),
    );
  }

  _drawLegend() {
    const named = this.series.filter((one) => !one.faint);
    this._legend.hidden = named.length < 2;
    this._legend.replaceChildren(...named.map((one) => h("li", { class: one.colour }, `${one.name} `, h("strong"))));
  }

  _summary() {
    const parts = this.series
      .filter((one) => !one.faint)
      .map(
        ({ name, points }) =>
          `${name} from ${this.spec.format(points[0][1])} at step ${points[0][0]} to ${this.spec.format(points.at(-1)[1])} at step ${points.at(-1)[0]}`,
      );
    return `${this.spec.title}: ${parts.join("; ")}. Arrow keys read single steps.`;
  }

  _stepAt(clientX) {
    const box = this._picture.getBoundingClientRect();
    return this.x?.invert(((clientX - box.left) / box.width) * SIZE.width) ?? null;
  }

  _key(event) {
    const points = this.series?.find((one) => !one.faint)?.points ?? [];
    if (!points.length) return;
    const at =
      this._step === null || this._step === undefined ? points.length - 1 : points.indexOf(nearest(points, this._step));
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: points.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.onStep(points[Math.min(points.length - 1, Math.max(0, to))][0]);
  }
}

// An average that forgets: what a noisy curve is about. `weight` is that of the newest value.
export function smooth(points, weight = 0.12) {
  let mean = null;
  return points.map(([step, value]) => [step, (mean = mean === null ? value : mean + weight * (value - mean))]);
}

// Without the first steps of a long series, whose losses would flatten all that follows.
const trimmed = ({ points, faint }) =>
  points.length > 60 && !faint
    ? points.slice(Math.floor(points.length / 50))
    : faint
      ? points.slice(Math.floor(points.length / 25))
      : points;

function padded(low, high, fromZero) {
  if (fromZero) return [0, high * 1.08 || 1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

function scale(low, high, from, to) {
  const span = high - low || 1;
  const at = (value) => from + ((value - low) / span) * (to - from);
  at.domain = [low, high];
  at.invert = (place) =>
    low + ((Math.min(Math.max(place, Math.min(from, to)), Math.max(from, to)) - from) / (to - from)) * span;
  return at;
}

export function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((by) => by * power).find((one) => one >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step)
    found.push(Number(value.toPrecision(12)));
  return found;
}

export function nearest(points, step) {
  let [low, high] = [0, points.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < step) low = middle;
    else high = middle;
  }
  return Math.abs(points[low][0] - step) <= Math.abs(points[high][0] - step) ? points[low] : points[high];
}
