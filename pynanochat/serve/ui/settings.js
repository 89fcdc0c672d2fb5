// What the reader has set: sampling within the server's limits, and how answers are asked for. Only what differs from
// the server's defaults is kept, so that a run with other defaults brings its own. "change" is dispatched on every set.

import { remembered } from "./store.js";

const PENALTY = { low: 0.1, high: 10 };

// name, label, what it does, range given the server's limits, step, and the slider's end where the range is too wide.
export const SAMPLING = [
  {
    name: "temperature",
    label: "Temperature",
    help: "0 always takes the likeliest token; higher is more varied.",
    range: (l) => [0, l.temperature ?? 2],
    step: 0.05,
  },
  {
    name: "top_k",
    label: "Top-k",
    help: "Choose among the k likeliest tokens; 0 for all.",
    range: (l) => [0, l.top_k ?? 200],
    step: 1,
  },
  {
    name: "top_p",
    label: "Top-p",
    help: "Choose among the likeliest tokens that together reach this share.",
    range: () => [0.01, 1],
    step: 0.01,
  },
  {
    name: "min_p",
    label: "Min-p",
    help: "Leave out tokens below this share of the likeliest one.",
    range: () => [0, 1],
    step: 0.01,
  },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    help: "Above 1 makes tokens that were used less likely.",
    range: () => [PENALTY.low, PENALTY.high],
    slider: [0.5, 2],
    step: 0.05,
  },
  {
    name: "max_tokens",
    label: "Longest answer",
    help: "Tokens of an answer at most.",
    range: (l) => [1, l.max_tokens ?? 4096],
    step: 1,
  },
];

const FALLBACK = { temperature: 0.8, top_k: 50, top_p: 1, min_p: 0, repetition_penalty: 1, max_tokens: 512 };

export class Settings extends EventTarget {
  constructor() {
    super();
    this._own = remembered.get("sampling", {});
    this._choices = {
      tools: true,
      tokens: true,
      compare: false,
      model: "",
      seed: "",
      ...remembered.get("choices", {}),
    };
    this._defaults = FALLBACK;
    this.limits = {};
  }

  // Take the server's limits and defaults.
  serve({ limits = {}, defaults = {} }) {
    this.limits = limits;
    this._defaults = { ...FALLBACK, ...defaults };
    this._tell();
  }

  // A sampling value, within the limits.
  value(name) {
    const own = this._own[name];
    return this._within(name, typeof own === "number" ? own : this._defaults[name]);
  }

  range(name) {
    return SAMPLING.find((one) => one.name === name).range(this.limits);
  }

  // Set a sampling value; returns what it became.
  set(name, value) {
    const kept = this._within(name, value);
    if (kept === this._defaults[name]) delete this._own[name];
    else this._own[name] = kept;
    remembered.set("sampling", this._own);
    this._tell();
    return kept;
  }

  reset() {
    this._own = {};
    remembered.set("sampling", this._own);
    this.choose("seed", "");
  }

  get changed() {
    return Object.keys(this._own).length > 0 || this._choices.seed !== "";
  }

  choice(name) {
    return this._choices[name];
  }

  choose(name, value) {
    this._choices[name] = value;
    remembered.set("choices", this._choices);
    this._tell();
  }

  // The request's fields, for the `turn`th answer to a message: with a seed, asking again gives another answer.
  request(turn) {
    const fields = Object.fromEntries(SAMPLING.map(({ name }) => [name, this.value(name)]));
    const seed = Number.parseInt(this._choices.seed, 10);
    const alternatives = Math.min(5, this.limits.top_logprobs ?? 5);
    return {
      ...fields,
      ...(Number.isFinite(seed) ? { seed: seed + turn } : {}),
      ...(this._choices.tokens ? { logprobs: true, top_logprobs: alternatives } : {}),
      ...(this._choices.tools ? {} : { tools_enabled: false }),
    };
  }

  _within(name, value) {
    const [low, high] = this.range(name);
    const { step } = SAMPLING.find((one) => one.name === name);
    const held = Math.min(high, Math.max(low, Number.isFinite(value) ? value : this._defaults[name]));
    return step === 1 ? Math.round(held) : Number(held.toFixed(4));
  }

  _tell() {
    this.dispatchEvent(new Event("change"));
  }
}
