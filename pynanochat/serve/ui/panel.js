// The settings beside the conversation: sampling within the server's limits, the seed, tools and probabilities.

import { h } from "./dom.js";
import { SAMPLING } from "./settings.js";

export class Panel {
  constructor(element, settings) {
    this.element = element;
    this.settings = settings;
    this._rows = SAMPLING.map((one) => this._row(one));
    this._seed = h("input", {
      type: "number",
      id: "seed",
      min: 0,
      max: 999999999,
      step: 1,
      placeholder: "none",
      inputmode: "numeric",
      "aria-describedby": "seed-help",
    });
    this._seed.addEventListener("change", () =>
      settings.choose("seed", /^\d{1,9}$/.test(this._seed.value) ? this._seed.value : ""),
    );
    this._tools = switchRow("tools", "Calculator", "Let the model compute with its tool.", settings);
    this._tokens = switchRow(
      "tokens",
      "Token probabilities",
      "Keep them with each answer, to look at later.",
      settings,
    );
    this._reset = h(
      "button",
      { type: "button", class: "button", on: { click: () => settings.reset() } },
      "Back to the server's settings",
    );
    const seedRow = h(
      "div",
      { class: "setting" },
      h("div", { class: "setting-head" }, h("label", { for: "seed" }, "Seed"), this._seed),
      h("p", { id: "seed-help" }, "The same seed gives the same answers."),
    );
    element
      .querySelector(".panel-body")
      .append(...this._rows.map((row) => row.element), seedRow, this._tools.element, this._tokens.element, this._reset);
    settings.addEventListener("change", () => this.show());
    this.show();
  }

  show() {
    for (const row of this._rows) row.show();
    if (document.activeElement !== this._seed) this._seed.value = this.settings.choice("seed");
    this._tools.show();
    this._tokens.show();
    this._reset.hidden = !this.settings.changed;
  }

  _row({ name, label, help, range, slider, step }) {
    const field = h("input", {
      type: "number",
      id: name,
      step,
      inputmode: "decimal",
      "aria-describedby": `${name}-help`,
    });
    const track = h("input", { type: "range", step, label: `${label}, slider` });
    const ends = [h("span"), h("span")];
    field.addEventListener("change", () => {
      this.settings.set(name, field.valueAsNumber);
      this.show();
    });
    track.addEventListener("input", () => this.settings.set(name, track.valueAsNumber));
    const head = h("div", { class: "setting-head" }, h("label", { for: name }, label), field);
    const line = h("div", { class: "setting-slider" }, ends[0], track, ends[1]);
    const element = h("div", { class: "setting" }, head, line, h("p", { id: `${name}-help` }, help));
    const show = () => {
      const [low, high] = range(this.settings.limits);
      [field.min, field.max] = [low, high];
      [track.min, track.max] = slider ?? [low, high];
      const value = this.settings.value(name);
      if (document.activeElement !== field || !field.validity.valid) field.value = value;
      track.value = value;
      const [from, to] = [Number(track.min), Number(track.max)];
      track.style.setProperty("--fill", String(Math.min(1, Math.max(0, (value - from) / (to - from || 1)))));
      [ends[0].textContent, ends[1].textContent] = [from, to].map((end) => end.toLocaleString("en-US"));
    };
    return { element, show };
  }
}

function switchRow(name, label, help, settings) {
  const box = h("input", {
    type: "checkbox",
    role: "switch",
    id: `switch-${name}`,
    "aria-describedby": `switch-${name}-help`,
  });
  box.addEventListener("change", () => settings.choose(name, box.checked));
  const element = h(
    "div",
    { class: "setting" },
    h("div", { class: "setting-head" }, h("label", { for: box.id }, label), box),
    h("p", { id: `switch-${name}-help` }, help),
  );
  return { element, show: () => (box.checked = settings.choice(name)) };
}
