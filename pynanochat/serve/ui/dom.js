// Elements, built one by one: no string ever becomes markup here, so text of a model, a file or a reader stays text.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  columns: ["M5 5h14v14h-14z", "M12 5v14"],
  send: ["M12 19v-14", "M6 11l6 -6l6 6"],
  stop: ["M8 8h8v8h-8z"],
  copy: ["M9 9h10v10h-10z", "M15 9v-4h-10v10h4"],
  check: ["M5 12.5l4.5 4.5l9.5 -10"],
  again: ["M19 12a7 7 0 1 1 -2.2 -5.1", "M19 4v4h-4"],
  edit: ["M5 19l1 -4l9.5 -9.5l3 3l-9.5 9.5z", "M13.5 7.5l3 3"],
  tokens: ["M4 7h5v4h-5z", "M11 7h9v4h-9z", "M4 14h9v4h-9z", "M15 14h5v4h-5z"],
  left: ["M14 6l-6 6l6 6"],
  right: ["M10 6l6 6l-6 6"],
  close: ["M6 6l12 12", "M18 6l-12 12"],
  trash: ["M5 7h14", "M10 7v-2h4v2", "M7 7l1 12h8l1 -12"],
  download: ["M12 4v11", "M7 11l5 5l5 -5", "M5 20h14"],
  sun: [
    "M8 12a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "M12 3v2",
    "M12 19v2",
    "M3 12h2",
    "M19 12h2",
    "M5.6 5.6l1.4 1.4",
    "M17 17l1.4 1.4",
    "M5.6 18.4l1.4 -1.4",
    "M17 7l1.4 -1.4",
  ],
  moon: ["M19 14.5a7.5 7.5 0 1 1 -9.5 -9.5a6 6 0 0 0 9.5 9.5z"],
  auto: ["M4 12a8 8 0 1 0 16 0a8 8 0 1 0 -16 0", "M12 4v16", "M12 8l5.5 -1.5", "M12 12h8", "M12 16l5.5 1.5"],
  warn: ["M12 4l9 16h-18z", "M12 10v4", "M12 17v.1"],
  calc: ["M6 4h12v16h-12z", "M9 8h6", "M9 12h.1", "M12 12h.1", "M15 12h.1", "M9 16h.1", "M12 16h.1", "M15 16h.1"],
  key: ["M4 15a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", "M11 12l8 -8", "M16 7l3 3"],
};

// h("button", {class: "icon", label: "Copy", on: {click}}, ...children): a property is an attribute, but for `on`
// (listeners), `label` (aria-label), `data` (data-*), and values of false or null, which are left out.
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "label") element.setAttribute("aria-label", value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  for (const d of ICONS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

// A button that shows an icon alone; its name is read out and shown as a tooltip.
export function iconButton(name, label, click, extra = {}) {
  return h(
    "button",
    { type: "button", class: "icon-button", label, title: label, ...extra, on: { click } },
    icon(name),
  );
}

export function swapIcon(button, name) {
  button.replaceChildren(icon(name));
}

// Show that something was done on a button for a moment.
export function flash(button, name, label) {
  const before = { label: button.getAttribute("aria-label"), children: [...button.childNodes] };
  if (button.dataset.flashing) return;
  button.dataset.flashing = "yes";
  button.replaceChildren(icon(name));
  button.setAttribute("aria-label", label);
  setTimeout(() => {
    delete button.dataset.flashing;
    button.replaceChildren(...before.children);
    button.setAttribute("aria-label", before.label);
  }, 1400);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "offscreen", readonly: true });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

export const number = (value, digits = 0) =>
  Number(value).toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
