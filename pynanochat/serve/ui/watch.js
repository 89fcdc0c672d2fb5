// The training page: curves of each stage of the run, read anew while it goes on, and what the model wrote on the way.

import { getJson } from "./api.js";
import { askKey } from "./dialogs.js";
import { h, number } from "./dom.js";
import { Plot, smooth } from "./plot.js";
import { STAGES, stageTitle } from "./stages.js";
import { themeButton } from "./theme.js";

const SECONDS = { live: 2, done: 15, trouble: 5 };

const short = (value) =>
  value === 0
    ? "0"
    : Math.abs(value) >= 1000
      ? number(value)
      : Math.abs(value) >= 100
        ? value.toFixed(0)
        : Math.abs(value) >= 10
          ? value.toFixed(1)
          : value.toFixed(3);
const small = (value) =>
  value === 0
    ? "0"
    : Math.abs(value) < 0.001 || Math.abs(value) >= 1000
      ? value.toExponential(1)
      : String(Number(value.toPrecision(3)));
const share = (value) => (value === 0 ? "0" : `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`);

// What may be drawn of a stage; a chart without values is left out.
const CHARTS = [
  { title: "Training loss", unit: "nats per token", format: short, raw: ["loss"], not: "rl" },
  { title: "Policy loss", unit: "per token", format: short, raw: ["loss"], only: "rl" },
  { title: "Validation", unit: "bits per byte", format: short, dots: ["val_bpb"] },
  { title: "Reward", unit: "of sampled answers, mean of a step", format: share, raw: ["reward"], fromZero: true },
  { title: "Held-out questions", unit: "part answered right", format: share, dots: /^pass@\d+$/, fromZero: true },
  { title: "Length of answers", unit: "tokens", format: short, raw: ["answer_tokens"], dots: ["val_answer_tokens"] },
  { title: "Learning rate", unit: "factor on each rate", format: small, plain: ["lr"], fromZero: true },
  { title: "Speed", unit: "tokens/s", format: short, raw: ["tokens_per_second"], fromZero: true },
  { title: "MFU", unit: "part of the peak FLOP rate", format: share, raw: ["mfu"], fromZero: true },
  { title: "Gradient norm", unit: "", format: short, raw: ["gradient_norm"], fromZero: true },
];
const NAMES = { loss: "loss", val_bpb: "bits per byte", answer_tokens: "sampled", val_answer_tokens: "held-out" };
const COLOURS = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"];

class Watch {
  constructor() {
    this.stage = "";
    this.plots = new Map();
    this._page = Object.fromEntries(
      ["run", "stages", "figures", "plots", "samples", "state", "nothing"].map((id) => [
        id,
        document.getElementById(id),
      ]),
    );
    document.getElementById("theme").append(themeButton());
    this._offerChat();
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.load());
  }

  // `pynanochat watch` serves this page alone: there is no chat to go to.
  async _offerChat() {
    const status = await getJson("v1/models").then(
      () => 200,
      (error) => error.status,
    );
    document.getElementById("pages").hidden = status === 404;
  }

  // Read the data, draw them, and come back.
  async load() {
    clearTimeout(this._timer);
    let wait = SECONDS.trouble;
    try {
      const data = await getJson("watch/data");
      this.show(data);
      wait = data.stages.length && data.stages.every((stage) => stage.done) ? SECONDS.done : SECONDS.live;
    } catch (error) {
      if (error.kind === "key" && (await askKey())) wait = 0;
      this._page.state.textContent =
        error.kind === "key" ? "This server wants a key." : `${error.message} Trying again…`;
    }
    if (document.visibilityState === "visible") this._timer = setTimeout(() => this.load(), wait * 1000);
  }

  show(data) {
    const stages = data.stages
      .filter((stage) => stage.points.length)
      .sort((a, b) => STAGES.indexOf(a.stage) - STAGES.indexOf(b.stage));
    this._page.run.textContent = data.run;
    document.title = `${data.run} · training`;
    this._page.nothing.hidden = stages.length > 0;
    if (!stages.length) return;
    this.data = stages;
    const picked = stages.find((stage) => stage.stage === this.stage);
    const newest = stages.at(-1);
    // Follow the run from stage to stage, unless the reader has chosen one.
    if (!picked || (!this._chosen && newest.stage !== this.stage)) this.stage = newest.stage;
    this._drawStages();
    this._drawStage(stages.find((stage) => stage.stage === this.stage));
  }

  _drawStages() {
    const tabs = this.data.map(({ stage, done }) => {
      const { name, title } = stageTitle(stage);
      const click = () => {
        this._chosen = true;
        this.stage = stage;
        this._drawStages();
        this._drawStage(this.data.find((one) => one.stage === stage));
        this._page.stages.querySelector("[aria-pressed=true]").focus();
      };
      const note = h("span", { class: done ? "state" : "state live" }, done ? "finished" : "running");
      return h(
        "button",
        {
          type: "button",
          class: `stage-tab stage-${name}`,
          "aria-pressed": String(stage === this.stage),
          on: { click },
        },
        h("strong", {}, title),
        note,
      );
    });
    const signature = JSON.stringify([this.stage, this.data.map((one) => [one.stage, one.done])]);
    if (signature === this._signature) return;
    this._signature = signature;
    this._page.stages.replaceChildren(...tabs);
  }

  _drawStage(stage) {
    this._page.state.textContent = stage.done ? "" : "Updates while the run goes on.";
    if (this._drawn !== stage.stage) {
      this.plots.clear();
      this._page.plots.replaceChildren();
      this._page.plots.className = `plots stage-${stageTitle(stage.stage).name}`;
      this._drawn = stage.stage;
      this._samplesSeen = "";
    }
    const columns = columnsOf(stage.points);
    this._page.figures.replaceChildren(...figures(stage, columns));
    for (const chart of CHARTS) {
      const series = seriesOf(chart, columns, stage.stage);
      if (series.some((one) => one.points.length > 1)) this._plot(chart).draw(series);
    }
    this._drawSamples(stage.points);
  }

  _plot(chart) {
    if (!this.plots.has(chart.title)) {
      const plot = new Plot(chart, (step) => this.plots.forEach((other) => other.point(step)));
      this.plots.set(chart.title, plot);
      const order = CHARTS.map((one) => one.title);
      const after = [...this.plots]
        .filter(([title]) => order.indexOf(title) > order.indexOf(chart.title))
        .map(([, other]) => other.element);
      this._page.plots.insertBefore(
        plot.element,
        [...this._page.plots.children].find((child) => after.includes(child)) ?? null,
      );
    }
    return this.plots.get(chart.title);
  }

  _drawSamples(points) {
    const lines = points
      .filter((point) => Array.isArray(point.samples) && point.samples.length)
      .slice(-12)
      .reverse();
    const signature = JSON.stringify(lines.map((line) => line.step));
    if (signature === this._samplesSeen) return;
    this._samplesSeen = signature;
    const rows = lines.map((line, i) => {
      const pairs = line.samples.map(({ prompt, text }) =>
        h("li", {}, h("span", { class: "sample-prompt" }, prompt), h("span", { class: "sample-text" }, text)),
      );
      return h(
        "details",
        i ? {} : { open: true },
        h("summary", {}, `Step ${number(line.step)}`),
        h("ul", {}, ...pairs),
      );
    });
    this._page.samples.hidden = !rows.length;
    this._page.samples.querySelector(".sample-list").replaceChildren(...rows);
  }
}

// {name: [[step, value], ...]} of the numbers in the points.
function columnsOf(points) {
  const columns = {};
  for (const point of points) {
    for (const [name, value] of Object.entries(point)) {
      if (typeof value === "number" && name !== "step" && Number.isFinite(point.step))
        (columns[name] ??= []).push([point.step, value]);
    }
  }
  return columns;
}

function seriesOf({ raw = [], dots = [], plain = [], only, not }, columns, stage) {
  if ((only && only !== stage) || not === stage) return [];
  const dotted =
    dots instanceof RegExp
      ? Object.keys(columns)
          .filter((name) => dots.test(name))
          .sort((a, b) => a.localeCompare(b, "en", { numeric: true }))
      : dots;
  const found = [];
  const add = (name, more) =>
    columns[name]?.length &&
    found.push({
      name: Object.hasOwn(NAMES, name) ? NAMES[name] : name.replaceAll("_", " "),
      colour: COLOURS[found.filter((one) => !one.faint).length % 8],
      points: columns[name],
      ...more,
    });
  for (const name of raw) {
    if ((columns[name]?.length ?? 0) > 12) {
      add(name, { faint: true });
      add(name, { points: smooth(columns[name]) });
    } else add(name, { dots: true });
  }
  for (const name of plain) add(name, {});
  for (const name of dotted) add(name, { dots: true });
  return found;
}

function figures(stage, columns) {
  const last = (name) => columns[name]?.at(-1)?.[1];
  const smoothLast = (name) => columns[name] && smooth(columns[name]).at(-1)[1];
  const found = [
    ["Step", stage.points.length ? number(Math.max(...stage.points.map((point) => point.step ?? 0))) : null],
    ["Loss", stage.stage === "rl" || last("loss") === undefined ? null : short(smoothLast("loss"))],
    ["Bits per byte", last("val_bpb") === undefined ? null : last("val_bpb").toFixed(4)],
    ["Reward", last("reward") === undefined ? null : share(smoothLast("reward"))],
    ["pass@1", last("pass@1") === undefined ? null : share(last("pass@1"))],
    ["Tokens seen", last("tokens") === undefined ? null : compact(last("tokens"))],
    ["Tokens/s", last("tokens_per_second") === undefined ? null : short(smoothLast("tokens_per_second"))],
    ["MFU", last("mfu") === undefined || last("mfu") > 1 ? null : share(smoothLast("mfu"))],
    ["Time", last("seconds") === undefined ? null : duration(last("seconds"))],
  ];
  return found
    .filter(([, value]) => value !== null)
    .map(([name, value]) => h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, value)));
}

const compact = (value) => value.toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 1 });

function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

new Watch().load();
