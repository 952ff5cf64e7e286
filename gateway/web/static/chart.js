// A month of usage as stacked bars: what each model adds to each day. The numbers are those of the
// table beneath; <section data-month='{"days": [...], "bands": [{name, nano_usd, tokens}]}'>.
"use strict";

const COLOURS = 6;

function usd(nano) {
  const [whole, decimals] = [Math.floor(nano / 1e9), String(nano % 1e9).padStart(9, "0")];
  return `$${whole.toLocaleString("en-US")}.${decimals.replace(/0+$/, "").padEnd(2, "0")}`;
}

const MEASURES = {
  nano_usd: (value) => usd(Math.round(value)),
  tokens: (value) => value.toLocaleString("en-US"),
};

// The height of a chart of nothing.
const LEAST = { nano_usd: 1e7, tokens: 100 };

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function bandColour(index) {
  return colour(`--bar-${(index % COLOURS) + 1}`);
}

// Each band on top of those before it: what uPlot draws, the tallest first.
function stacked(bands, measure) {
  const below = new Array(bands[0][measure].length).fill(0);
  return bands.map((band) => band[measure].map((value, day) => (below[day] += value)));
}

class MonthChart {
  constructor(section) {
    this.section = section;
    this.place = section.querySelector(".chart");
    this.legend = section.querySelector(".chart-legend");
    this.month = JSON.parse(section.dataset.month);
    this.measure = "nano_usd";
    const group = section.querySelector(".switch");
    group.hidden = false;
    for (const button of group.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        this.measure = button.dataset.measure;
        for (const other of group.querySelectorAll("button")) {
          other.setAttribute("aria-pressed", String(other === button));
        }
        this.draw();
      });
    }
    new ResizeObserver(() => {
      if (this.plot && this.place.clientWidth) this.plot.setSize(this.size());
    }).observe(this.place);
    this.draw();
  }

  size() {
    return { width: this.place.clientWidth, height: 240 };
  }

  draw() {
    if (this.plot) this.plot.destroy();
    const { days, bands } = this.month;
    const data = [days.map((_, index) => index), ...stacked(bands, this.measure).reverse()];
    const bars = uPlot.paths.bars({ size: [0.72, 40], radius: 0.12 });
    const series = bands.map((_, index) => ({
      fill: bandColour(index), width: 0, paths: bars, points: { show: false },
    }));
    const grid = { stroke: colour("--line"), width: 1 };
    const text = { stroke: colour("--soft"), font: "12px system-ui, sans-serif", ticks: { show: false } };
    const write = MEASURES[this.measure];
    this.plot = new uPlot({
      ...this.size(),
      legend: { show: false },
      cursor: { points: { show: false }, drag: { setScale: false, x: false, y: false }, y: false },
      scales: {
        x: { time: false, range: [-0.6, days.length - 0.4] },
        y: { range: (_, low, high) => [0, high > 0 ? high * 1.06 : LEAST[this.measure]] },
      },
      axes: [
        {
          ...text, grid: { show: false }, size: 28, space: 52, incrs: [1, 2, 5, 10],
          values: (_, splits) => splits.map((at) => (days[at] ?? "").slice(5)),
        },
        {
          ...text, grid, space: 44,
          values: (_, splits) => splits.map(write),
          size: (_, values) => 16 + 7 * Math.max(2, ...(values ?? []).map((one) => one.length)),
        },
      ],
      series: [{}, ...series.reverse()],
      hooks: { setCursor: [(plot) => this.tell(plot.cursor.idx)] },
    }, data, this.place);
    this.tell(null);
  }

  // What the bands are, with their share of a day, or of the month where no day is pointed at.
  tell(day) {
    const write = MEASURES[this.measure];
    const value = (band) =>
      day == null ? band[this.measure].reduce((sum, one) => sum + one, 0) : band[this.measure][day];
    const items = [[null, day == null ? "30 days" : this.month.days[day],
      this.month.bands.reduce((sum, band) => sum + value(band), 0)]];
    this.month.bands.forEach((band, index) => items.push([bandColour(index), band.name, value(band)]));
    this.legend.replaceChildren(...items.map(([fill, name, amount]) => {
      const item = document.createElement("li");
      if (fill) {
        const swatch = document.createElement("span");
        swatch.className = "swatch";
        swatch.style.background = fill;
        item.append(swatch);
      }
      const number = document.createElement("b");
      number.textContent = write(amount);
      item.append(`${name} `, number);
      return item;
    }));
  }
}

const charts = [...document.querySelectorAll("[data-month]")].map((one) => new MonthChart(one));
const redraw = () => charts.forEach((chart) => chart.draw());
document.addEventListener("themechange", redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
