// What is looked at: window, label of the rows, and filters. It lives behind the # of the address, without any token.

export const DEFAULT = { window: "60", by: "model", where: [] };

/** Read a view from the part of the address behind #. */
export function parseView(hash) {
  const view = { ...DEFAULT, where: [] };
  for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (name === "window" || name === "by") view[name] = value;
    else if (name.startsWith("where.")) view.where.push([name.slice("where.".length), value]);
  }
  return view;
}

/** The query of a view, which is the part of the address behind # too. */
export function viewQuery(view) {
  const query = new URLSearchParams({ window: view.window, by: view.by });
  for (const [label, value] of view.where) query.append(`where.${label}`, value);
  return query.toString();
}

/** Look at the spans with one value of a label only, by the next label that is still free. */
export function drillDown(view, labels, value) {
  const where = [...view.where.filter(([label]) => label !== view.by), [view.by, value]];
  const taken = new Set(where.map(([label]) => label));
  return { ...view, where, by: labels.find((label) => !taken.has(label)) ?? view.by };
}

/** Leave a filter out again, and show the rows by its label. */
export function without(view, label) {
  return { ...view, by: label, where: view.where.filter(([name]) => name !== label) };
}
