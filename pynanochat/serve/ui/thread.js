// The conversation as it is read: the turns of the branch that is picked, arrows to the other branches, and a scroll
// position that follows the end only while the reader is there.

import { AnswerView } from "./answer.js";
import { h, iconButton } from "./dom.js";
import { QuestionView } from "./question.js";
import { path } from "./tree.js";

const NEAR_END = 48; // pixels

export class Thread {
  // `actions` are those of the views, and turn(parent, by).
  constructor(scroller, list, actions) {
    this.scroller = scroller;
    this.list = list;
    this.actions = actions;
    this.conversation = null;
    this._turns = new Map(); // key -> {element, views}
    this._stuck = true;
    this._last = { scrollTop: 0, scrollHeight: 0 };
    this._jump = h(
      "button",
      { type: "button", class: "jump", hidden: true, on: { click: () => this.toEnd() } },
      "Latest",
      h("span", { "aria-hidden": "true" }, " ↓"),
    );
    scroller.nextElementSibling.append(this._jump);
    scroller.addEventListener("scroll", () => this._watchScroll(), { passive: true });
    scroller.addEventListener("wheel", (event) => event.deltaY < 0 && this._leaveEnd(), { passive: true });
    new ResizeObserver(() => this._follow()).observe(list);
  }

  show(conversation) {
    const other = this.conversation !== conversation;
    this.conversation = conversation;
    if (other) this._turns.clear();
    const turns = path(conversation);
    const kept = new Map();
    for (const turn of turns) {
      const key = turn.ids.join(" ");
      const made = this._turns.get(key) ?? this._make(turn);
      this._label(made, turn);
      kept.set(key, made);
    }
    this._turns = kept;
    this._place([...kept.values()].map((made) => made.element));
    if (other) this.toEnd();
  }

  // Make these the children of the list; those that stay are not touched, so that neither focus nor place is lost.
  _place(elements) {
    const wanted = new Set(elements);
    for (const child of [...this.list.children]) if (!wanted.has(child)) child.remove();
    elements.forEach((element, i) => {
      if (this.list.children[i] !== element) this.list.insertBefore(element, this.list.children[i] ?? null);
    });
  }

  // A node's answer has grown.
  update(node) {
    this._view(node.id)?.update();
  }

  toEnd() {
    this._stuck = true;
    this._follow();
    this._jump.hidden = true;
  }

  editLast() {
    const questions = [...this._turns.values()]
      .flatMap((turn) => turn.views)
      .filter((view) => view instanceof QuestionView);
    questions.at(-1)?.edit();
  }

  // The answers that are shown, first to last.
  get answers() {
    return [...this._turns.values()].flatMap((turn) => turn.views).filter((view) => view instanceof AnswerView);
  }

  _view(id) {
    for (const turn of this._turns.values()) for (const view of turn.views) if (view.node.id === id) return view;
    return null;
  }

  _make(turn) {
    const nodes = turn.ids.map((id) => this.conversation.nodes[id]);
    const compared = nodes.length > 1;
    const views = nodes.map((node) =>
      node.role === "user" ? new QuestionView(node, this.actions) : new AnswerView(node, this.actions, compared),
    );
    const arrows = h("nav", { class: "branches", label: "Branches" });
    const element = h("li", { class: compared ? "turn compare" : "turn" }, ...views.map((view) => view.element));
    if (compared) {
      element.append(arrows);
    } else views[0].foot.prepend(arrows);
    return { element, views, arrows };
  }

  _label({ views, arrows }, turn) {
    const { index, count, parent, chosen } = turn;
    for (const view of views) {
      view.element.classList.toggle("chosen", views.length > 1 && view.node.id === chosen);
      view.choose?.setAttribute("aria-pressed", String(view.node.id === chosen));
    }
    arrows.hidden = count < 2;
    arrows.dataset.parent = parent;
    if (arrows.hidden) return arrows.replaceChildren();
    const button = (by, name, label) =>
      iconButton(name, label, () => this.actions.turn(parent, by), {
        disabled: index + by < 0 || index + by >= count,
        "data-by": by,
      });
    return arrows.replaceChildren(
      button(-1, "left", "Previous branch"),
      h("span", { label: `Branch ${index + 1} of ${count}`, role: "img" }, `${index + 1}/${count}`),
      button(1, "right", "Next branch"),
    );
  }

  // Going to another branch puts other elements in place: the keyboard stays at the arrows of `parent`'s branches.
  focusArrows(parent, by) {
    const arrows = [...this.list.querySelectorAll(".branches")].find((one) => one.dataset.parent === parent);
    const buttons = [...(arrows?.querySelectorAll("button:not(:disabled)") ?? [])];
    (buttons.find((button) => button.dataset.by === String(by)) ?? buttons[0])?.focus();
  }

  _atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  _watchScroll() {
    const { scrollTop, scrollHeight } = this.scroller;
    const up = scrollTop < this._last.scrollTop && scrollHeight >= this._last.scrollHeight; // not because it shrank
    this._last = { scrollTop, scrollHeight };
    if (this._atEnd()) this._stuck = true;
    else if (up) this._stuck = false;
    this._jump.hidden = this._stuck;
  }

  _leaveEnd() {
    if (this.scroller.scrollHeight > this.scroller.clientHeight) this._stuck = false;
  }

  _follow() {
    if (this._stuck) this.scroller.scrollTop = this.scroller.scrollHeight;
    else this._jump.hidden = this._atEnd();
  }
}
