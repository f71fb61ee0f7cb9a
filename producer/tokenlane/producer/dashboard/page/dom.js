// Builds and updates elements. Everything from the pool becomes text, never markup.

/** An element with classes, attributes and children; a string becomes a text node. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Set an element's text, unless it has it already: selections stay, and screen readers hear only changes. */
export function setText(target, text) {
  if (target.textContent !== String(text)) target.textContent = text;
}

/**
 * Renders a list into the rows of a parent. `create(item)` returns `{row, update, end}`; rows with the same key are kept,
 * so that the focus stays where it is although rows move. `end()`, if there is one, is called when a row is removed.
 */
export function rows(parent, keyOf, create) {
  const known = new Map();
  return (items) => {
    const focused = document.activeElement;
    const gone = new Set(known.keys());
    let next = parent.firstElementChild;
    for (const item of items) {
      const key = keyOf(item);
      if (!known.has(key)) known.set(key, create(item));
      gone.delete(key);
      const { row, update } = known.get(key);
      update(item);
      if (row === next) next = next.nextElementSibling;
      else parent.insertBefore(row, next);
    }
    for (const key of gone) {
      const { row, end } = known.get(key);
      row.remove();
      end?.();
      known.delete(key);
    }
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  };
}

/** A table cell, with the name of its column for screens on which rows are cards. */
export function cell(label, className = "", ...children) {
  return element("td", { "data-label": label, class: className }, ...children);
}

/** A time span, as the command line writes it. */
export function age(milliseconds) {
  if (milliseconds === null) return "–";
  const seconds = milliseconds / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(0)} h`;
}
