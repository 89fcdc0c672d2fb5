// A tool call within an answer: a chip "23 - 8 → 15" that opens to the whole expression, its result and who gave it.

import { h, icon } from "./dom.js";

const SHORT = 48;

export class ToolBlock {
  constructor() {
    this._brief = h("span", { class: "tool-brief" });
    this._result = h("span", { class: "tool-result" });
    this._expression = h("code");
    this._output = h("code");
    this._source = h("p", { class: "tool-source" });
    const rows = h(
      "dl",
      {},
      h("dt", {}, "Expression"),
      h("dd", {}, this._expression),
      h("dt", {}, "Result"),
      h("dd", {}, this._output),
    );
    this._summary = h(
      "summary",
      {},
      icon("calc"),
      this._brief,
      h("span", { class: "tool-arrow", "aria-hidden": "true" }, "→"),
      this._result,
    );
    this.element = h(
      "details",
      { class: "tool" },
      this._summary,
      h("div", { class: "tool-inside" }, rows, this._source),
    );
  }

  // `call` is {expression, output, forced}; output is null while there is none, and `live` while one may come.
  update({ expression, output, forced }, live) {
    const missing = live ? "…" : "no result";
    this._brief.textContent = shorten(expression ?? "output");
    this._result.textContent = output === null ? missing : shorten(output);
    this._expression.textContent = expression ?? "(none)";
    this._output.textContent = output ?? missing;
    this._source.textContent = source(output, forced, live);
    this._summary.setAttribute(
      "aria-label",
      `Tool call: ${this._brief.textContent}, result ${this._result.textContent}`,
    );
    this.element.classList.toggle("tool-failed", output === null && !live);
  }
}

function source(output, forced, live) {
  if (output === null)
    return live ? "The calculator is asked." : "The calculator gave nothing back for this expression.";
  return forced
    ? "Computed by the calculator, not by the model."
    : "Written by the model itself: the calculator did not run.";
}

const shorten = (text) => (text.length > SHORT ? `${text.slice(0, SHORT - 1)}…` : text);
