// Building of elements. Text is always a text node, so that no label can become markup.

/** Make an element. attributes: those with a function are event listeners, those that are false are left out. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const shown = new WeakMap();

/**
 * Show data in a place if it has changed. The focus stays on the element with the same `data-key`.
 * render: data -> nodes.
 */
export function update(place, data, render) {
  const text = JSON.stringify(data);
  if (shown.get(place) === text) return;
  shown.set(place, text);
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const open = new Set([...place.querySelectorAll("details[open]")].map((details) => details.dataset.key));
  place.replaceChildren(...[render(data)].flat());
  for (const details of place.querySelectorAll("details")) details.open = open.has(details.dataset.key);
  if (key) [...place.querySelectorAll("[data-key]")].find((found) => found.dataset.key === key)?.focus();
}

/** A table that can be scrolled by keyboard. columns: [{ title, number, cell: row -> node or text }]. */
export function table(name, columns, rows) {
  const head = columns.map(({ title, number }) => element("th", { scope: "col", class: number ? "number" : null }, title));
  const body = rows.map((row) =>
    element(
      "tr",
      {},
      columns.map(({ cell, number }, place) =>
        element(place ? "td" : "th", { scope: place ? null : "row", class: number ? "number" : null }, cell(row)),
      ),
    ),
  );
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": name, "data-key": `table ${name}` },
    element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body)),
  );
}
