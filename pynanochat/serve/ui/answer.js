// One answer of a model: text, tool calls, notices, what went wrong, figures and actions. `update()` after any change.

import { copyText, flash, h, icon, iconButton, number } from "./dom.js";
import { TOOL } from "./inline.js";
import { MarkdownView } from "./render.js";
import { stageTitle } from "./stages.js";
import { tokenView } from "./tokens.js";
import { ToolBlock } from "./tool.js";
import { plainText } from "./tree.js";

const SHARE = 8; // an update may take one part in so many of the time: long answers are drawn less often

export class AnswerView {
  // `actions` are {again(id), choose(id), key()}; `compared` where it stands beside others.
  constructor(node, actions, compared = false) {
    this.node = node;
    this.actions = actions;
    this._tools = [];
    this._waiting = 0;
    this._cost = 0;
    this._showTokens = false;
    const { name, title } = stageTitle(node.model);
    this._notices = h("div", { class: "notices" });
    this._body = h("div", { class: "markdown" });
    this._tokens = h("div", { class: "token-place", hidden: true });
    this._trouble = h("div", { class: "trouble-place" });
    this._facts = h("span", { class: "facts" });
    this._buttons = h("span", { class: "actions" }, ...this._makeButtons());
    this.choose = compared ? this._chooser(title) : null;
    const head = h("header", { class: "answer-head" }, h("span", { class: `chip stage-${name}` }, title), this.choose);
    this.foot = h("footer", { class: "turn-foot" }, this._buttons, this._facts);
    this.element = h(
      "article",
      { class: "answer", label: `Answer of ${title}` },
      head,
      this._notices,
      this._body,
      this._tokens,
      this._trouble,
      this.foot,
    );
    this._text = new MarkdownView(this._body, { tool: (i) => this._tools[i]?.element });
    this.draw();
  }

  // Draw soon: as often as the screen, or less where drawing takes long. At the end of an answer at once.
  update() {
    if (this.node.state !== "running") return this.draw();
    if (this._waiting) return undefined;
    this._waiting = setTimeout(() => requestAnimationFrame(() => this.draw()), this._cost * SHARE);
    return undefined;
  }

  draw() {
    clearTimeout(this._waiting);
    this._waiting = 0;
    const started = performance.now();
    const { node } = this;
    const live = node.state === "running";
    const { text, calls, notices } = flowOf(node.events);
    calls.forEach((call, i) => (this._tools[i] ??= new ToolBlock()).update(call, live));
    this._text.update(text, live);
    this._notices.replaceChildren(...notices.map((notice) => h("p", { class: "notice" }, notice)));
    this.element.classList.toggle("writing", live);
    this.element.classList.toggle("thinking", live && !text);
    this.element.setAttribute("aria-busy", String(live));
    this._drawTokens(live);
    this._drawEnd(live);
    this._cost = performance.now() - started;
  }

  _drawTokens(live) {
    const possible = this.node.tokens.length > 0 && !live;
    this._tokenButton.hidden = !possible;
    const show = possible && this._showTokens;
    this._tokenButton.setAttribute("aria-pressed", String(show));
    if (show && !this._tokens.firstChild) this._tokens.append(tokenView(this.node.tokens));
    this._tokens.hidden = !show;
    this._body.hidden = show;
  }

  _drawEnd(live) {
    const { node } = this;
    this._buttons.hidden = live;
    this._copyButton.hidden = !plainText(node);
    this._facts.replaceChildren(...(live ? [] : figures(node)));
    if (this._shownError !== node.error) {
      this._shownError = node.error;
      this._trouble.replaceChildren(...(node.error ? [trouble(node, this.actions)] : []));
    }
  }

  _makeButtons() {
    const copy = () => copyText(plainText(this.node)).then(() => flash(this._copyButton, "check", "Copied"));
    this._copyButton = iconButton("copy", "Copy answer", copy);
    const again = iconButton("again", "Answer again", () => this.actions.again(this.node.id));
    const toggle = () => {
      this._showTokens = !this._showTokens;
      this.draw();
    };
    this._tokenButton = iconButton("tokens", "Token probabilities", toggle, { "aria-pressed": "false" });
    return [this._copyButton, again, this._tokenButton];
  }

  _chooser(title) {
    const label = `Continue from the answer of ${title}`;
    return h(
      "button",
      { type: "button", class: "choose", label, on: { click: () => this.actions.choose(this.node.id) } },
      "Continue here",
    );
  }

  showTokens(show) {
    this._showTokens = show;
    this.draw();
  }
}

// The events of an answer as one text, in which marks stand for tool calls.
function flowOf(events) {
  let text = "";
  const calls = [];
  const notices = [];
  const add = (call) => {
    text += `${TOOL}${calls.length}${TOOL}`;
    calls.push(call);
  };
  for (const event of events) {
    const last = calls.at(-1);
    if (event.kind === "text") text += event.text.replaceAll(TOOL, "\ufffd");
    else if (event.kind === "notice") notices.push(event.text);
    else if (event.kind === "tool_call") add({ expression: event.text, output: null, forced: false });
    else if (last && last.output === null) Object.assign(last, { output: event.text, forced: event.forced });
    else add({ expression: null, output: event.text, forced: event.forced });
  }
  return { text, calls, notices };
}

function figures({ usage, finish, state }) {
  const found = [];
  if (state === "stopped") found.push(h("span", {}, "stopped"));
  if (finish === "length")
    found.push(
      h("span", { title: "The longest answer or the end of the context is reached" }, "cut off at its longest"),
    );
  if (!usage) return found;
  if (usage.tokens_per_second > 0)
    found.push(h("span", {}, `${number(usage.tokens_per_second, usage.tokens_per_second < 10 ? 1 : 0)} tokens/s`));
  if (usage.ttft_ms >= 0)
    found.push(h("span", { title: "Time to the first token" }, `${milliseconds(usage.ttft_ms)} to first token`));
  if (usage.context > 0) found.push(contextMeter(usage));
  return found;
}

const milliseconds = (ms) => (ms < 950 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

function contextMeter({ total_tokens: used, context }) {
  const meter = h("span", { class: "meter", "aria-hidden": "true" });
  meter.style.setProperty("--share", String(Math.min(1, used / context)));
  return h(
    "span",
    { class: "context", title: "Tokens of the conversation, of those that the model can see" },
    meter,
    `${number(used)} of ${number(context)} context`,
  );
}

const KINDLY = {
  busy: ["The model has many readers right now.", "Try again"],
  starting: ["The model is getting ready.", "Try again"],
  offline: ["No connection to the server.", "Try again"],
  broken: ["The answer broke off.", "Try again"],
  key: ["This server wants a key.", "Enter key"],
  long: ["This conversation is too long for the model.", "Try again"],
  refused: ["The server did not take the message.", "Try again"],
};

// What went wrong, kindly, with a button that may count down to when the server wants to be asked again.
function trouble(node, actions) {
  const { kind, message, retryAfter } = node.error;
  const [title, retry] = Object.hasOwn(KINDLY, kind) ? KINDLY[kind] : KINDLY.broken; // not __proto__ of a file
  const click = () => (kind === "key" ? actions.key(node.id) : actions.again(node.id));
  const button = h("button", { type: "button", class: "button", on: { click } }, retry);
  if (retryAfter > 0) countDown(button, retry, retryAfter);
  return h(
    "div",
    { class: "trouble", role: "alert" },
    icon("warn"),
    h("div", {}, h("strong", {}, title), h("p", {}, message.charAt(0).toUpperCase() + message.slice(1))),
    button,
  );
}

function countDown(button, label, seconds) {
  let left = Math.ceil(seconds);
  button.disabled = true;
  const tick = () => {
    button.textContent = left > 0 ? `${label} in ${left} s` : label;
    button.disabled = left > 0;
    if (left-- > 0) setTimeout(tick, 1000);
  };
  tick();
}
