// The value over the peak rate: every run a dot, a line through the best of each family, the good rates shaded.
"use strict";

const landscape = (() => {
  const box = document.getElementById("landscape");
  const DASH = [undefined, [7, 3], [2, 3]];
  let terrain = null, u = null, points = [], shape = "", tip = null, near = null;

  const style = (place) => ({ stroke: charts.colour(`family-${place % 8}`), width: 1.8, dash: DASH[Math.floor(place / 8) % 3] });
  const name = (group) => (many() ? `${group.optimizer} ${group.family}` : group.family);
  const many = () => new Set(terrain.series.map((group) => group.optimizer)).size > 1;
  const sign = () => (metricFalls() ? 1 : -1);
  const metricFalls = () => terrain.falls;

  // One point a half doubling, the best: rates lie on a grid of √2 unless a job says otherwise. Fresh seeds have luck of
  // their own, and the best rates have most of them, so a line is drawn through the runs over the search's seed.
  function line(group) {
    const best = new Map();
    for (const point of group.points) {
      if (point.value === null || point.fresh) continue;
      const bin = Math.round(2 * Math.log2(point.rate));
      const there = best.get(bin);
      if (!there || sign() * point.value < sign() * there.value) best.set(bin, point);
    }
    return [...best.values()].sort((a, b) => a.rate - b.rate);
  }

  function draw() {
    const source = document.getElementById("terrain");
    if (!source) { charts.missing(box, "The map of rates appears with the first complete run.", "No run was complete, so there is no map of rates."); return; }
    if (source.textContent === shape && u) return;
    shape = source.textContent;
    terrain = JSON.parse(shape);
    terrain.falls = box.dataset.goal !== "maximize";
    terrain.series.sort((a, b) => own(b) - own(a));
    points = terrain.series.flatMap((group, place) => group.points.map((point) => ({ ...point, place })));
    build();
  }

  const own = (group) => Number(group.family === terrain.report.family && group.optimizer === terrain.report.optimizer);

  function build() {
    u?.destroy();
    const lines = terrain.series.map(line);
    const values = points.filter((point) => point.value !== null).map((point) => point.value).sort((a, b) => a - b);
    const ends = range(values);
    const log = ends[0] > 0 && ends[1] / ends[0] > 8;
    const rates = points.map((point) => point.rate);
    const low = Math.min(...rates) / 1.25, high = Math.max(...rates) * 1.25;
    const place = charts.element("div", "plot");
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${terrain.report.metric} over the peak rate for ${terrain.series.length} families; the best is ${charts.number(terrain.report.value)} at ${charts.number(terrain.report.rate)} with ${terrain.report.family}`);
    place.append(charts.element("h3", "", `${terrain.report.metric} over the peak learning rate`));
    box.replaceChildren(legend(), place);
    u = new uPlot({
      width: Math.max(200, box.clientWidth), height: 420, padding: [12, 22, 0, 0],
      legend: { show: false },
      cursor: { points: { show: false }, x: false, y: false, drag: { x: true, y: false, dist: 6 } },
      scales: {
        x: { time: false, distr: 3, range: charts.whole([low, high]) },
        y: { distr: log ? 3 : 1, range: () => pad(ends, log) },
      },
      axes: [charts.logAxis({ values: charts.labels, size: 28 }), (log ? charts.logAxis : charts.axis)({ size: 58, values: charts.labels })],
      series: [{}, ...lines.map((_, at) => ({ ...style(at), width: at ? 1.1 : 2.6, alpha: at ? 0.65 : 1, spanGaps: true, points: { show: false } }))],
      hooks: {
        drawAxes: [shade],
        draw: [dots],
        setCursor: [point],
        ready: [(self) => {
          self.over.addEventListener("click", () => { if (near) location.assign(box.dataset.trials + near.number); });
        }],
      },
    }, uPlot.join(lines.map((some) => [some.map((point) => point.rate), some.map((point) => point.value)])), place);
    tip = charts.tip(u.over);
  }

  // From the best to what nine in ten reach; the others stand at the edge.
  function range(values) {
    const cut = Math.min(values.length - 1, Math.ceil(values.length * 0.9));
    return metricFalls() ? [values[0], values[cut]] : [values[values.length - 1 - cut], values.at(-1)];
  }

  function pad([low, high], log) {
    if (log) return [low / 1.15, high * 1.3];
    const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
    return [low < 0 ? low - room : Math.max(0, low - room), high + room * 1.6];  // nor a loss below zero on the axis
  }

  function shade(self) {
    const group = terrain.series.find(own);
    const { ctx, bbox } = self, ratio = devicePixelRatio || 1;
    if (!group?.plateau) return;
    const left = self.valToPos(group.plateau.low / 1.09, "x", true), right = self.valToPos(group.plateau.high * 1.09, "x", true);
    const from = Math.max(bbox.left, left), to = Math.min(bbox.left + bbox.width, right);
    if (to <= from) return;
    ctx.save();
    ctx.fillStyle = charts.faint("winner", 0.16);
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
    ctx.fillStyle = charts.colour("dim");
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    ctx.fillText("as good", (from + to) / 2, bbox.top + 14 * ratio);
    ctx.restore();
  }

  function position(self, point) {
    const x = self.valToPos(point.rate, "x", true);
    if (x < self.bbox.left || x > self.bbox.left + self.bbox.width) return null;
    const top = self.bbox.top + 6, bottom = self.bbox.top + self.bbox.height - 6;
    if (point.value === null) return { x, y: metricFalls() ? top : bottom, out: true };
    const y = self.valToPos(point.value, "y", true);
    return { x, y: Math.max(top, Math.min(bottom, y)), out: y < top || y > bottom };
  }

  function dots(self) {
    const { ctx } = self, ratio = devicePixelRatio || 1;
    ctx.save();
    for (const point of points) {
      const at = position(self, point);
      if (!at) continue;
      ctx.strokeStyle = ctx.fillStyle = charts.colour(`family-${point.place % 8}`);
      ctx.globalAlpha = points.length > 300 ? 0.5 : 0.85;
      ctx.lineWidth = 1.5 * ratio;
      ctx.beginPath();
      if (point.value === null) cross(ctx, at, 3.5 * ratio);
      else if (at.out) triangle(ctx, at, 4 * ratio);
      else ctx.arc(at.x, at.y, (points.length > 300 ? 2 : 3) * ratio, 0, 2 * Math.PI);
      if (point.value === null) ctx.stroke();
      else ctx.fill();
    }
    ctx.globalAlpha = 1;
    ring(self, { rate: terrain.report.rate, value: terrain.report.value }, "winner", 8 * ratio);
    const baseline = points.find((point) => point.number === 0);
    if (baseline) ring(self, baseline, "baseline", 6 * ratio);
    ctx.restore();
  }

  function cross(ctx, { x, y }, size) {
    ctx.moveTo(x - size, y - size); ctx.lineTo(x + size, y + size);
    ctx.moveTo(x + size, y - size); ctx.lineTo(x - size, y + size);
  }
  function triangle(ctx, { x, y }, size) {
    ctx.moveTo(x - size, y + size / 2); ctx.lineTo(x + size, y + size / 2); ctx.lineTo(x, y - size);
  }
  function ring(self, point, part, size) {
    const at = position(self, point);
    if (!at) return;
    const { ctx } = self, ratio = devicePixelRatio || 1;
    ctx.strokeStyle = ctx.fillStyle = charts.colour(part);
    ctx.lineWidth = 2.5 * ratio;
    ctx.beginPath();
    ctx.arc(at.x, at.y, size, 0, 2 * Math.PI);
    ctx.stroke();
    ctx.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    const right = at.x > self.bbox.left + self.bbox.width * 0.7;
    ctx.textAlign = right ? "right" : "left";
    const x = at.x + (right ? -1 : 1) * (size + 5 * ratio);
    const y = at.y + (part === "winner" ? 12 : -4) * ratio;
    ctx.lineWidth = 4 * ratio;
    ctx.strokeStyle = charts.colour("card");
    const words = part === "winner" ? "best" : "baseline";
    ctx.strokeText(words, x, y);
    ctx.fillText(words, x, y);
  }

  function point(self) {
    const { left, top } = self.cursor, ratio = devicePixelRatio || 1;
    near = null;
    let least = 14 ** 2;
    for (const point of left < 0 ? [] : points) {
      const at = position(self, point);
      if (!at) continue;
      const away = ((at.x - self.bbox.left) / ratio - left) ** 2 + ((at.y - self.bbox.top) / ratio - top) ** 2;
      if (away < least) { least = away; near = point; }
    }
    if (!near) { tip.hide(); return; }
    const group = terrain.series[near.place];
    const value = near.value === null ? "diverged" : `${terrain.report.metric} ${charts.number(near.value)}`;
    tip.show([`Trial ${near.number}${near.number === 0 ? ", the baseline" : ""}`, `${group.optimizer} at ${charts.number(near.rate, 3)}, ${group.family}`, value], left, top);
  }

  function legend() {
    const made = charts.element("div", "legend");
    terrain.series.forEach((group, place) => {
      const chip = charts.element("span", "badge");
      chip.append(charts.sample(style(place)), charts.element("span", "", name(group)));
      made.append(chip);
    });
    if (points.some((point) => point.value === null)) made.append(charts.element("span", "dim small", "× diverged"));
    return made;
  }

  charts.fit(box, () => (u ? [u] : []));
  document.addEventListener("theme", () => { if (u) build(); });
  document.addEventListener("htmx:afterSettle", draw);
  return { draw };
})();
