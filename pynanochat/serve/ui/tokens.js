// The token view: each token of an answer coloured by its probability, with what else the model thought of on hover or
// focus. Arrow keys go from token to token.

import { h } from "./dom.js";

const BOUNDS = [0.02, 0.1, 0.3, 0.6, 0.9]; // between the six shades
const LABELS = ["under 2 %", "2–10 %", "10–30 %", "30–60 %", "60–90 %", "over 90 %"];

export const shade = (probability) => BOUNDS.filter((bound) => probability >= bound).length;

export function percent(probability) {
  if (probability >= 0.9995) return "100 %";
  if (probability >= 0.1) return `${(probability * 100).toFixed(1)} %`;
  return probability < 0.0001 ? "<0.01 %" : `${(probability * 100).toFixed(2)} %`;
}

// `tokens` is [[text, logprob, [[text, logprob], ...]], ...].
export function tokenView(tokens) {
  const card = h("div", {
    class: "token-card",
    role: "tooltip",
    id: `tokens-${Math.random().toString(36).slice(2)}`,
    hidden: true,
  });
  const flow = h("div", { class: "token-flow", role: "group", label: "Tokens of the answer, by probability" });
  const element = h("div", { class: "token-view" }, legend(tokens), flow, card);
  tokens.forEach((token, i) => flow.append(...drawn(token, i, card.id)));
  const buttons = [...flow.querySelectorAll(".token")];
  const show = (button) => {
    if (!button) return;
    fill(card, tokens[Number(button.dataset.index)]);
    card.hidden = false;
    place(card, button, element);
  };
  const hide = () => (card.hidden = true);
  flow.addEventListener("pointerover", (event) => show(event.target.closest(".token")));
  flow.addEventListener("pointerleave", hide);
  flow.addEventListener("focusin", (event) => show(event.target.closest(".token")));
  flow.addEventListener("focusout", hide);
  flow.addEventListener("keydown", (event) => walk(event, buttons, hide));
  return element;
}

function legend(tokens) {
  const known = tokens.filter((token) => token[1] !== null);
  const mean = known.reduce((sum, token) => sum + token[1], 0) / Math.max(1, known.length);
  const scale = LABELS.map((label, i) => h("li", {}, h("span", { class: `swatch q${i}` }), label));
  const fact = `${tokens.length} tokens, perplexity ${Math.exp(-mean).toFixed(2)}`;
  return h(
    "div",
    { class: "token-legend" },
    h("ul", { label: "Probability of a token" }, ...scale),
    h("span", {}, fact),
  );
}

function drawn([text, logprob], i, cardId) {
  const probability = logprob === null ? null : Math.exp(logprob);
  const label = `${spoken(text)}, ${probability === null ? "given" : percent(probability)}`;
  const kind = probability === null ? "given" : `q${shade(probability)}`;
  const token = h(
    "button",
    {
      type: "button",
      class: `token ${kind}`,
      label,
      "aria-describedby": cardId,
      tabindex: i ? -1 : 0,
      data: { index: i },
    },
    visible(text),
  );
  return text.includes("\n") ? [token, h("br")] : [token];
}

const visible = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ | $/g, "\u00a0") || "∅";
const spoken = (text) =>
  text.trim() ? `“${text.trim()}”` : text.includes("\n") ? "line break" : text ? "space" : "nothing";

function fill(card, [text, logprob, top]) {
  const rows = top.map(([other, value]) => alternative(other, value, other === text));
  if (logprob !== null && !top.some(([other]) => other === text)) rows.push(alternative(text, logprob, true));
  const title = h(
    "p",
    { class: "token-title" },
    h("code", {}, quoted(text)),
    h("span", {}, logprob === null ? "given" : percent(Math.exp(logprob))),
  );
  card.replaceChildren(title, h("ol", {}, ...rows));
}

function alternative(text, logprob, taken) {
  const bar = h("span", { class: "token-bar" });
  bar.style.setProperty("--share", String(Math.exp(logprob)));
  return h(
    "li",
    { class: taken ? "taken" : null },
    h("code", {}, quoted(text)),
    bar,
    h("span", {}, percent(Math.exp(logprob))),
  );
}

const quoted = (text) => text.replaceAll("\n", "↵").replaceAll(" ", "␣") || "∅";

function place(card, button, within) {
  const [box, frame] = [button.getBoundingClientRect(), within.getBoundingClientRect()];
  const room = Math.max(0, frame.width - card.offsetWidth);
  card.style.setProperty("--x", `${Math.min(room, Math.max(0, box.left - frame.left))}px`);
  const below = window.innerHeight - box.bottom > card.offsetHeight + 12;
  card.style.setProperty(
    "--y",
    `${below ? box.bottom - frame.top + 6 : box.top - frame.top - card.offsetHeight - 6}px`,
  );
}

function walk(event, buttons, hide) {
  const at = buttons.indexOf(event.target);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (event.key === "Escape") hide();
  if (to === undefined || at < 0 || !buttons[to]) return;
  event.preventDefault();
  buttons[at].tabIndex = -1;
  buttons[to].tabIndex = 0;
  buttons[to].focus();
}
