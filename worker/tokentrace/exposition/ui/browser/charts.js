// Charts, drawn by uPlot. Each has its values in text beside it, so that nobody needs the picture.

import { clock } from "./format.js";
import { element } from "./dom.js";

const HEIGHT = 180;
const DASHES = [[], [6, 3], [2, 3], [10, 3, 2, 3], [1, 2], [12, 4]];

function colors() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  return { text: value("--muted"), grid: value("--line"), series: [1, 2, 3, 4, 5, 6].map((n) => value(`--series-${n}`)) };
}

/** A chart in a figure. format: number -> text. */
export class Chart {
  constructor(place, title, format) {
    this.format = format;
    this.title = title;
    this.canvas = element("div", { class: "canvas", role: "img" });
    this.legend = element("ul", { class: "legend" });
    place.replaceChildren(element("figcaption", {}, title), this.canvas, this.legend);
    this.plot = null;
    this.names = "";
    new ResizeObserver(() => this.resize()).observe(this.canvas);
  }

  resize() {
    const width = this.canvas.clientWidth;
    if (this.plot && width && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  /** times: Unix seconds of the points. series: [{ name, values }]; a value may be null. */
  show(times, series) {
    this.times = times;
    this.series = series;
    const data = [times, ...series.map(({ values }) => values)];
    const names = JSON.stringify(series.map(({ name }) => name));
    if (this.plot === null || names !== this.names) {
      this.names = names;
      this.draw(data);
    } else {
      this.plot.setData(data);
    }
    this.describe(null);
  }

  /** Draw again, for another color scheme. */
  redraw() {
    if (this.plot) this.draw(this.plot.data);
  }

  draw(data) {
    this.plot?.destroy();
    const { text, grid, series } = colors();
    const axis = { stroke: text, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 } };
    const options = {
      width: this.canvas.clientWidth || 320,
      height: HEIGHT,
      padding: [10, 12, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.05 : 1] } },
      axes: [
        { ...axis, size: 30, values: (_, ticks) => ticks.map(clock) },
        { ...axis, size: 60, values: (_, ticks) => ticks.map((tick) => this.format(tick)) },
      ],
      series: [{}, ...this.series.map(({ name }, place) => this.line(name, place, series))],
      hooks: { setCursor: [(plot) => this.describe(plot.cursor.idx)] },
    };
    this.plot = new uPlot(options, data, this.canvas);
  }

  line(label, place, series) {
    const width = place ? 1.5 : 2;
    return { label, stroke: series[place % series.length], dash: DASHES[place % DASHES.length], width, points: { show: false } };
  }

  /** Write the values at a point, or at the last one, into the legend. */
  describe(point) {
    const at = point ?? this.times.length - 1;
    const entries = this.series.map(({ name, values }, place) => [name, this.format(values[at] ?? null), place]);
    this.legend.replaceChildren(
      ...entries.map(([name, value, place]) =>
        element("li", {}, element("span", { class: `key key-${(place % 6) + 1}`, "aria-hidden": "true" }), `${name} `, element("b", {}, value)),
      ),
    );
    if (point === null || point === undefined) {
      const words = entries.map(([name, value]) => `${name} ${value}`).join(", ");
      const when = this.times.length ? ` at ${clock(this.times[at])}` : "";
      this.canvas.setAttribute("aria-label", `${this.title}${when}: ${words || "no data"}`);
    }
  }
}
