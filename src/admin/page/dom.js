// Making and changing elements. Text is always text: nothing here makes markup of it.

/** An element with attributes and children; a string becomes a text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** Sets a text where it differs, so that a reader's place and selection stay. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A sentence in which what stands between ` is code. */
export function setProse(node, text) {
  const parts = text.split("`");
  if (node.textContent === parts.join("")) return;
  node.replaceChildren(...parts.map((part, place) => (place % 2 === 1 ? element("code", {}, part) : part)));
}

export function setAttribute(node, name, value) {
  if (value === undefined || value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

/**
 * Makes the children of a parent those of a list: one for each item, known by its key,
 * made once, updated each time, and moved only where the order differs.
 */
export class KeyedList {
  constructor(parent, key, make, update) {
    Object.assign(this, { parent, key, make, update });
    this.children = new Map();
  }

  show(items) {
    const kept = new Map();
    let place = this.parent.firstChild;
    for (const item of items) {
      const key = this.key(item);
      if (kept.has(key)) continue;
      const child = this.children.get(key) ?? this.make(item);
      kept.set(key, child);
      this.update(child, item);
      if (child.node === place) place = place.nextSibling;
      else this.parent.insertBefore(child.node, place);
    }
    for (const [key, child] of this.children) {
      if (kept.get(key) !== child) child.node.remove();
    }
    this.children = kept;
  }
}

/** A list whose items are rows of cells; `fill` answers the text of each cell. */
export function tableRows(body, key, classes, fill) {
  const make = () => {
    const cells = classes.map((name, place) =>
      place === 0
        ? element("th", { scope: "row", class: name || null })
        : element("td", { class: name || null }));
    return { node: element("tr", {}, ...cells), cells };
  };
  return new KeyedList(body, key, make, (row, item) => {
    fill(item).forEach((text, place) => setText(row.cells[place], text));
  });
}
