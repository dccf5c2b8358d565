// The value over the peak rate: every run a mark, those that are not complete hollow at their forecast; the curve that
// the job's model expects of each family, with its band; the good rates shaded, and the edge of stability.
"use strict";

const landscape = (() => {
  const box = document.getElementById("landscape");
  const DASH = [undefined, [7, 3], [2, 3]];
  const BUSY = 90;  // marks, beyond which they are small and their forecasts have no whiskers
  const FOG = 3;  // families, beyond which not all bands are drawn
  const hidden = new Set(charts.recall("map-hidden", []));
  const log = { rate: charts.recall("map-log-rate", true), value: charts.recall("map-log-value") };  // null: as the values ask for
  let terrain = null, u = null, points = [], shape = "", place = null, ends = null, all = null, lit = null;

  const chosen = charts.marks(box, { at: position, x: (point) => point.rate, said });
  const style = (at) => ({ stroke: charts.colour(`family-${at % 8}`), width: 2, dash: DASH[Math.floor(at / 8) % 3] });
  const many = () => new Set(terrain.series.map((group) => group.optimizer)).size > 1;
  const name = (group) => (many() ? `${group.optimizer} ${group.family}` : group.family);
  const falls = () => terrain.goal !== "maximize";
  const own = (group) => Number(group.family === terrain.report?.family && group.optimizer === terrain.report?.optimizer);
  const shown = () => terrain.series.map((group, at) => ({ group, at })).filter(({ group }) => !hidden.has(name(group)));
  const end = (point) => point.value ?? point.forecast?.value ?? null;

  async function refresh() {
    const text = await charts.fetched(box.dataset.src);
    if (text === null && terrain === null) charts.missing(box, "The map of rates appears with the first run.", "No run ended with a value, so there is no map of rates.");
    if (text === null || text === shape) return;
    shape = text;
    terrain = JSON.parse(text);
    terrain.series.sort((a, b) => own(b) - own(a));
    draw();
  }

  function draw() {
    points = shown().flatMap(({ group, at }) => group.points.map((point) => ({ ...point, at, group })));
    points.sort((a, b) => a.rate - b.rate);
    const known = terrain.series.flatMap((group) => group.points.map(end)).filter((value) => value !== null).sort((a, b) => a - b);
    if (!known.length) { charts.nothing(box, "No run has got far enough to say where it ends."); return; }
    ends = range(known);
    if (log.value === null || !(ends[0] > 0)) log.value = ends[0] > 0 && ends[1] / ends[0] > 8;
    document.getElementById("land-count").textContent = terrain.sampled < terrain.trials ? `${terrain.sampled} of ${terrain.trials.toLocaleString("en")} runs` : terrain.sampled === 1 ? "one run" : `all ${terrain.sampled} runs`;
    build();
  }

  function build() {
    const kept = charts.recall("map-zoom");
    u?.destroy();
    chosen.begin(points);
    all = range_of_rates();
    place = charts.stage(described(), chosen.keys);
    charts.keepFocus(box, () => box.replaceChildren(legend(), place, caption(), table()));
    const rates = [...new Set([all[0], all[1], ...points.map((point) => point.rate)])].sort((a, b) => a - b);
    u = new uPlot({
      width: Math.max(200, box.clientWidth), height: 430, padding: [12, 22, 0, 0],
      legend: { show: false },
      cursor: { points: { show: false }, x: false, y: false, drag: { x: true, y: false, dist: 6 } },
      scales: {
        x: { time: false, distr: log.rate ? 3 : 1, range: charts.whole(all) },
        y: { distr: log.value ? 3 : 1, range: () => pad(ends) },
      },
      axes: [
        (log.rate ? charts.logAxis : charts.axis)({ label: "peak learning rate", values: charts.rates, size: 28 }),
        (log.value ? charts.logAxis : charts.axis)({ label: terrain.metric, size: 58, values: charts.labels }),
      ],
      series: [{}, { stroke: "transparent", points: { show: false } }],
      hooks: {
        drawAxes: [(self) => inside(self, () => { shade(self); bands(self); edges(self); })],
        draw: [(self) => { inside(self, () => lines(self)); marks(self); }],
        setCursor: [chosen.hover],
        setScale: [(self, key) => { if (key === "x") keep(self); }],
      },
    }, [rates, rates.map(() => null)], place);
    chosen.on(u, place);
    if (kept && kept[0] < all[1] && kept[1] > all[0]) u.setScale("x", { min: kept[0], max: kept[1] });
  }

  function range_of_rates() {
    const tried = terrain.series.flatMap((group) => group.points.map((point) => point.rate));
    const edge = terrain.edges.map((one) => one.rate).filter((rate) => rate < 3 * Math.max(...tried));
    const low = Math.min(...tried), high = Math.max(...tried, ...edge);
    return log.rate ? [low / 1.25, high * 1.25] : [0, high * 1.06];
  }

  function keep(self) {
    const { min, max } = self.scales.x;
    const whole = min <= all[0] * 1.0001 && max >= all[1] * 0.9999;
    charts.keepZoom(box, "map-zoom", whole ? null : [min, max]);
    const seen = points.filter((point) => point.rate >= min && point.rate <= max).map(end).filter((value) => value !== null).sort((a, b) => a - b);
    if (seen.length > 2) ends = range(seen);
    const [low, high] = pad(ends);
    if (self.scales.y.min !== low || self.scales.y.max !== high) self.setScale("y", { min: low, max: high });
  }

  // From the best to what nine in ten reach; the others stand at the edge.
  function range(values) {
    const cut = Math.min(values.length - 1, Math.ceil(values.length * 0.9));
    return falls() ? [values[0], values[cut]] : [values[values.length - 1 - cut], values.at(-1)];
  }

  function pad([low, high]) {
    if (log.value) return [low / 1.15, high * 1.3];
    const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
    const [below, above] = falls() ? [room, room * 1.6] : [room * 1.6, room];
    return [low < 0 ? low - below : Math.max(0, low - below), high + above];  // nor a loss below zero on the axis
  }

  function described() {
    const found = terrain.report, runs = `${terrain.metric} over the peak learning rate, ${points.length} runs of ${shown().length} families`;
    return found ? `${runs}; the best is ${charts.number(found.value)} at ${charts.rate(found.rate)} with ${found.family}` : runs;
  }

  // Painting ----------------------------------------------------------------------------------------------------------

  function inside(self, paint) {
    const { ctx, bbox } = self;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    paint();
    ctx.restore();
  }

  function shade(self) {
    const group = terrain.series.find(own), { ctx, bbox } = self, ratio = devicePixelRatio || 1;
    if (!group?.plateau || hidden.has(name(group))) return;
    const from = self.valToPos(group.plateau.low / 1.04, "x", true), to = self.valToPos(group.plateau.high * 1.04, "x", true);
    ctx.fillStyle = charts.faint("winner", 0.15);
    ctx.fillRect(from, bbox.top, to - from, bbox.height);
    words(ctx, "as good", (Math.max(from, bbox.left) + Math.min(to, bbox.left + bbox.width)) / 2, margin(bbox, 0), "dim", "center");
  }

  // The lines for words lie where values are bad.
  function margin(bbox, line) {
    const away = (14 + 17 * line) * (devicePixelRatio || 1);
    return falls() ? bbox.top + away : bbox.top + bbox.height - away + 4;
  }

  // Where a learning-rate range test stopped making progress: beyond, training comes apart.
  function edges(self) {
    const { ctx, bbox } = self, ratio = devicePixelRatio || 1;
    terrain.edges.forEach((edge, at) => {
      const x = self.valToPos(edge.rate, "x", true);
      ctx.strokeStyle = charts.colour("danger");
      ctx.lineWidth = 1.5 * ratio;
      ctx.setLineDash([2 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.setLineDash([]);
      const text = terrain.edges.length > 1 ? `${edge.optimizer}: edge of stability` : "edge of stability";
      const right = x > bbox.left + bbox.width * 0.6;
      words(ctx, text, x + (right ? -6 : 6) * ratio, margin(bbox, at + 1), "danger", right ? "right" : "left");
    });
  }

  // Of many families each has its band when a run or its name in the legend is pointed at: all of them together are fog.
  function bands(self) {
    for (const { group, at } of shown()) {
      if (!group.curve || !(own(group) || shown().length <= FOG || group === chosen.near()?.group || name(group) === lit)) continue;
      const { ctx } = self, { rates, low, high } = group.curve;
      ctx.fillStyle = charts.faint(`family-${at % 8}`, own(group) || name(group) === lit ? 0.16 : 0.1);
      ctx.beginPath();
      rates.forEach((rate, i) => ctx.lineTo(self.valToPos(rate, "x", true), within(self, low[i])));
      for (let i = rates.length - 1; i >= 0; i -= 1) ctx.lineTo(self.valToPos(rates[i], "x", true), within(self, high[i]));
      ctx.fill();
    }
  }

  function lines(self) {
    const { ctx } = self, ratio = devicePixelRatio || 1;
    for (const { group, at } of shown().reverse()) {
      if (!group.curve) continue;
      const { stroke, dash } = style(at), { rates, values } = group.curve;
      ctx.strokeStyle = stroke;
      const forward = own(group) || name(group) === lit;
      ctx.lineWidth = (forward ? 2.6 : 1.3) * ratio;
      ctx.globalAlpha = forward ? 1 : 0.7;
      ctx.setLineDash((dash ?? []).map((one) => one * ratio));
      ctx.beginPath();
      rates.forEach((rate, i) => ctx.lineTo(self.valToPos(rate, "x", true), within(self, values[i])));
      ctx.stroke();
    }
  }

  // No farther out than a window's height: canvases draw nothing at heights that are not finite.
  function within(self, value) {
    const y = log.value && !(value > 0) ? Infinity : self.valToPos(value, "y", true);
    return Math.max(-self.bbox.height, Math.min(3 * self.bbox.height, y));
  }

  function position(self, point) {
    const x = self.valToPos(point.rate, "x", true), value = end(point);
    if (x < self.bbox.left || x > self.bbox.left + self.bbox.width) return null;
    const top = self.bbox.top + 6, bottom = self.bbox.top + self.bbox.height - 6;
    if (value === null) return { x, y: falls() ? top : bottom, out: true };
    const y = within(self, value);
    return { x, y: Math.max(top, Math.min(bottom, y)), out: y < top || y > bottom };
  }

  function marks(self) {
    const { ctx } = self, ratio = devicePixelRatio || 1, busy = points.length > BUSY;
    ctx.save();
    for (const point of points) {
      const at = position(self, point);
      if (!at) continue;
      ctx.strokeStyle = ctx.fillStyle = charts.colour(`family-${point.at % 8}`);
      ctx.globalAlpha = busy ? 0.6 : 0.9;
      if (point.value === null && point.forecast && !at.out && (!busy || point === chosen.near())) whisker(self, point, at);
      mark(ctx, point, at, (busy ? 2.4 : 3.6) * ratio);
    }
    ctx.globalAlpha = 1;
    if (terrain.report) ring(self, { rate: terrain.report.rate, value: terrain.report.value }, "winner", 8 * ratio);
    const baseline = terrain.series.flatMap((group) => group.points).find((point) => point.role === "baseline");
    if (baseline) ring(self, baseline, "baseline", 6 * ratio);
    if (chosen.near()) ring(self, chosen.near(), "link", 10 * ratio);
    ctx.restore();
  }

  function mark(ctx, point, { x, y, out }, size) {
    const ratio = devicePixelRatio || 1;
    ctx.lineWidth = 1.5 * ratio;
    ctx.beginPath();
    if (point.value === null && !point.forecast) {
      ctx.moveTo(x - size, y - size); ctx.lineTo(x + size, y + size);
      ctx.moveTo(x + size, y - size); ctx.lineTo(x - size, y + size);
      ctx.stroke();
      return;
    }
    if (out) { ctx.moveTo(x - size, y + size / 2); ctx.lineTo(x + size, y + size / 2); ctx.lineTo(x, y - size); ctx.closePath(); }
    else ctx.arc(x, y, size, 0, 2 * Math.PI);
    if (point.value !== null) { ctx.fill(); return; }
    const { fillStyle } = ctx;
    ctx.fillStyle = charts.colour("card");
    ctx.fill();
    ctx.fillStyle = fillStyle;
    ctx.stroke();
  }

  function whisker(self, point, { x }) {
    const { ctx } = self;
    ctx.lineWidth = devicePixelRatio || 1;
    ctx.beginPath();
    const { top, height } = self.bbox;
    for (const one of [point.forecast.low, point.forecast.high]) ctx.lineTo(x, Math.max(top, Math.min(top + height, within(self, one))));
    ctx.stroke();
  }

  function ring(self, point, part, size) {
    const at = position(self, point), { ctx } = self, ratio = devicePixelRatio || 1;
    if (!at) return;
    ctx.strokeStyle = charts.colour(part);
    ctx.lineWidth = 2.5 * ratio;
    ctx.beginPath();
    ctx.arc(at.x, at.y, size, 0, 2 * Math.PI);
    ctx.stroke();
    if (part === "link") return;
    const right = at.x > self.bbox.left + self.bbox.width * 0.7;
    const x = at.x + (right ? -1 : 1) * (size + 5 * ratio), y = at.y + (part === "winner" ? 12 : -4) * ratio;
    words(ctx, part === "winner" ? "best" : "baseline", x, y, part, right ? "right" : "left", 600);
  }

  function words(ctx, text, x, y, colour, align, weight = 400) {
    const ratio = devicePixelRatio || 1;
    ctx.font = `${weight} ${12 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = align;
    ctx.lineWidth = 4 * ratio;
    ctx.strokeStyle = charts.colour("card");
    ctx.fillStyle = charts.colour(colour);
    ctx.strokeText(text, x, y);
    ctx.fillText(text, x, y);
  }

  // In words ----------------------------------------------------------------------------------------------------------

  function said(point) {
    const role = point.role === "baseline" ? ", the baseline" : point.fresh ? ", over a fresh seed" : "";
    const far = point.share < 1 ? `${point.state} at ${Math.round(100 * point.share)} % of the run` : point.state;
    const value = point.value !== null ? `${terrain.metric} ${charts.number(point.value)}`
      : point.forecast ? `${terrain.metric} ${charts.number(point.forecast.value)} expected (${charts.number(point.forecast.low)} to ${charts.number(point.forecast.high)})` : "";
    return [`Trial ${point.number}${role}`, `${point.group.optimizer} at ${charts.rate(point.rate)}, ${point.group.family}`, far, value].filter(Boolean);
  }

  // Beside it ---------------------------------------------------------------------------------------------------------

  function legend() {
    const made = charts.element("div", "legend"), every = terrain.series.map((group, at) => ({ group, at }));
    for (const { group, at } of every) {
      const button = charts.element("button");
      button.type = "button";
      button.dataset.part = name(group);
      button.setAttribute("aria-pressed", String(!hidden.has(name(group))));
      button.append(charts.sample(style(at)), charts.element("span", "", `${name(group)} (${group.points.length})`));
      button.addEventListener("click", () => flip(name(group)));
      for (const [event, one] of [["mouseenter", name(group)], ["focus", name(group)], ["mouseleave", null], ["blur", null]]) {
        button.addEventListener(event, () => { lit = one; u.redraw(false); });
      }
      made.append(button);
    }
    made.append(charts.element("span", "gap"), scale("rate", "log rate"), scale("value", `log ${terrain.metric}`));
    made.append(charts.everything(() => [u]));
    return made;
  }

  function flip(family) {
    if (hidden.has(family)) hidden.delete(family);
    else hidden.add(family);
    charts.remember("map-hidden", [...hidden]);
    draw();
  }

  function scale(kind, text) {
    return charts.toggle(text, log[kind], () => {
      log[kind] = !log[kind];
      charts.remember(`map-log-${kind}`, log[kind]);
      draw();
    });
  }

  function caption() {
    const part = points.some((point) => point.forecast && point.value === null), apart = points.some((point) => !end(point) && point.state === "diverged");
    const said = ["Curves: what the job's model expects of each family at other peak rates, with the knobs of its best run; the band is a standard deviation."];
    if (part) said.push("Hollow: runs not trained to the end, where they are expected to end.");
    if (apart) said.push("×: diverged.");
    if (terrain.edges.length) said.push("Edge of stability: where a range test, a short run with a rising rate, stopped making progress.");
    return charts.element("p", "dim small", said.join(" "));
  }

  function table() {
    const heads = ["Family", "Runs", "Best peak rate", terrain.metric, "As good from", "to", "Expected best at"];
    return charts.table("Where good rates lie", heads, terrain.series.map(cells), "map-table");
  }

  function cells(group) {
    const sign = falls() ? 1 : -1, done = group.points.filter((point) => point.value !== null);
    const best = done.sort((a, b) => sign * (a.value - b.value))[0];
    const curve = group.curve, at = curve ? curve.values.reduce((low, value, i) => (sign * value < sign * curve.values[low] ? i : low), 0) : null;
    return [
      `${group.optimizer} ${group.family}`, String(group.points.length), best ? charts.rate(best.rate) : "–", best ? charts.number(best.value) : "–",
      group.plateau ? charts.rate(group.plateau.low) : "–", group.plateau ? charts.rate(group.plateau.high) : "–",
      curve ? `${charts.rate(curve.rates[at])}: ${charts.number(curve.values[at])}` : "–",
    ];
  }

  charts.fit(box, () => (u ? [u] : []));
  document.addEventListener("theme", () => { if (u) build(); });
  return { refresh };
})();
