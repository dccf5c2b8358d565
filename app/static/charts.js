// What all charts share: colours of the theme, numbers, zooming, a tip beside the cursor, the keyboard.
"use strict";

const charts = (() => {
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);

  // Canvas knows nothing of custom properties, so an element resolves them.
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const faint = (name, alpha) => colour(name).replace("rgb(", "rgba(").replace(")", `, ${alpha})`);
  const number = (value, digits = 4) => {
    if (value === null || value === undefined) return "–";
    if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 2).replace(/\.?0+e/, "e");
    return String(Number(value.toPrecision(digits)));
  };
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;  // never as HTML: names and words come from users
    return made;
  };
  const axis = (more = {}) => ({
    stroke: colour("dim"),
    grid: { stroke: colour("line"), width: 1 },
    ticks: { stroke: colour("line"), width: 1, size: 4 },
    font: "12px system-ui, sans-serif",
    ...more,
  });
  // uPlot's own ticks of a log axis go astray where its low end is no power of ten, so these are made here: as many of
  // 1, 2, 5 and the rest of each decade as there is room for; plain steps where the axis spans less than a factor of 4.
  const logSplits = (u, axisIndex, low, high) => {
    if (!(low > 0) || !(high > low)) return [];
    const decades = Math.log10(high / low), found = [];
    if (decades < 0.6) {
      const rough = (high - low) / 5, unit = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].find((one) => one * unit >= rough) * unit;
      for (let place = Math.ceil(low / step); place * step <= high; place += 1) found.push(Number((place * step).toPrecision(6)));
      return found;
    }
    const leads = decades > 3 || u.width / decades < 120 ? [1] : decades > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      for (const lead of leads) {
        const value = Number((lead * 10 ** power).toPrecision(6));
        if (value >= low && value <= high) found.push(value);
      }
    }
    return found;
  };
  const logAxis = (more = {}) => axis({ splits: logSplits, filter: (u, splits) => splits, ...more });
  // What is asked for, unless that is all there is: then the whole axis, which may begin before the first report.
  const whole = (ends) => (u, low, high) => {
    const all = u.data[0];
    return low <= all[0] && high >= all[all.length - 1] ? ends : [low, high];
  };
  const labels = (u, values) => values.map((value) => (value === null ? "" : number(value, 3)));

  // Where there is nothing to draw: what will come, or that nothing has, once the job is over.
  const missing = (box, coming, none) => nothing(box, document.getElementById("summary")?.dataset.over === "yes" ? none : coming);
  const nothing = (box, words) => box.replaceChildren(element("div", "plot-empty", words));

  const tip = (over) => {
    const box = element("div", "tip");
    box.hidden = true;
    over.append(box);
    return {
      show(lines, left, top) {
        box.replaceChildren(...lines.map((line) => element("div", "", line)));
        box.hidden = false;
        const right = left > over.clientWidth / 2;
        box.style.left = right ? "" : `${left + 14}px`;
        box.style.right = right ? `${over.clientWidth - left + 14}px` : "";
        box.style.top = `${Math.max(0, Math.min(top - 10, over.clientHeight - box.offsetHeight))}px`;
      },
      hide() { box.hidden = true; },
    };
  };

  const zoom = (u, factor) => {
    const { min, max } = u.scales.x;
    const log = u.scales.x.distr === 3;
    const [low, high] = log ? [Math.log(min), Math.log(max)] : [min, max];
    const middle = (low + high) / 2, half = ((high - low) / 2) * factor;
    const ends = [middle - half, middle + half].map((end) => (log ? Math.exp(end) : end));
    u.setScale("x", { min: ends[0], max: ends[1] });
  };
  const showAll = (u) => u.setData(u.data, true);

  // Keeps a chart as wide as its place.
  const fit = (box, made) => {
    const watcher = new ResizeObserver(() => {
      const width = box.clientWidth;
      for (const u of made()) if (width > 0 && u.width !== width) u.setSize({ width, height: u.height });
    });
    watcher.observe(box);
    return watcher;
  };

  const sample = (style) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", "22");
    svg.setAttribute("height", "10");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", "M1 5H21");
    line.setAttribute("stroke", style.stroke);
    line.setAttribute("stroke-width", String(style.width));
    if (style.dash) line.setAttribute("stroke-dasharray", style.dash.join(" "));
    svg.append(line);
    return svg;
  };

  return { colour, faint, number, element, axis, logAxis, whole, labels, missing, nothing, tip, zoom, showAll, fit, sample };
})();
