// Which stage of the run answers: a row of choices, and a switch that lets all of them answer side by side.

import { h, icon } from "./dom.js";
import { HINTS, stageTitle } from "./stages.js";

export class ModelPicker {
  // `talk` has models and model; the choice is kept in `settings`.
  constructor(element, talk, settings) {
    this.element = element;
    this.talk = talk;
    this.settings = settings;
    this._choices = h("fieldset", { class: "stages" });
    this._compare = h(
      "button",
      { type: "button", class: "compare-button", title: "All stages answer at once" },
      icon("columns"),
      h("span", {}, "Side by side"),
    );
    this._compare.addEventListener("click", () => settings.choose("compare", !settings.choice("compare")));
    element.append(this._choices, this._compare);
    settings.addEventListener("change", () => this.show());
  }

  // Draw the models anew.
  fill() {
    const options = this.talk.models.map((id) => this._option(id));
    this._choices.replaceChildren(h("legend", { class: "offscreen" }, "Stage that answers"), ...options);
    this._compare.hidden = this.talk.models.length < 2;
    this.show();
  }

  show() {
    const compare = this.settings.choice("compare") && this.talk.models.length > 1;
    this._compare.setAttribute("aria-pressed", String(compare));
    this._choices.classList.toggle("all", compare);
    for (const input of this._choices.querySelectorAll("input")) input.checked = input.value === this.talk.model;
  }

  _option(id) {
    const { name, title } = stageTitle(id);
    const input = h("input", { type: "radio", name: "stage", value: id, class: "offscreen" });
    input.addEventListener("change", () => this.settings.choose("model", id));
    return h(
      "label",
      { class: `stage stage-${name}`, title: `${title} ${HINTS[name] ?? ""}`.trim() },
      input,
      h("span", {}, title),
    );
  }
}
