// A job's curves: any metric above, the learning rate below, on one axis of steps. Winner and baseline are marked; what
// the cursor is near stands out in both, and says what it is. What was chosen, zoom and all, is kept.
"use strict";

const curves = (() => {
  const PARTS = {  // in the order they are painted: what matters lies on top
    diverged: { name: "diverged", colour: "other", width: 1, dash: [2, 4] },
    stopped: { name: "paused or stopped early", colour: "other", width: 1.2, dash: [5, 3] },
    recent: { name: "recent", colour: "other", width: 1.2 },
    confirm: { name: "confirming", colour: "confirm", width: 1.3 },
    best: { name: "among the best", colour: "best", width: 1.4 },
    running: { name: "training now", colour: "running", width: 2.2 },
    baseline: { name: "baseline", colour: "baseline", width: 2.2, dash: [7, 4] },
    winner: { name: "best", colour: "winner", width: 3 },
  };
  const ORDER = Object.keys(PARTS);
  const TELLING = ["winner", "baseline", "best", "running", "confirm"];  // whose rates the axis of rates has room for
  const box = document.getElementById("curves");
  const RATE = "\u0000rate";  // no name of a metric has this character
  const hidden = new Set(charts.recall("curves-hidden", []));
  const log = charts.recall("curves-log", { value: null, rate: false });  // null: as the values ask for
  let metric = charts.recall("curves-metric"), smoothing = charts.recall("curves-smoothing", 0);
  const [tools, legend, frame] = ["tools", "legend", ""].map((name) => charts.element("div", name));
  let data = null, plots = [], shape = "", focused = null, tips = [];

  const drawnAs = (part) => ({ ...PARTS[part], stroke: charts.colour(PARTS[part].colour) });
  const shown = () => data.lines.filter((line) => !hidden.has(line.part) && line.steps.length > 0);
  const positive = (values, wanted) => (wanted ? values.map((v) => (v !== null && v > 0 ? v : null)) : values);

  const missing = () => charts.missing(box, "No report yet. Curves appear with the first one.", "No trial has reported anything.");

  function draw(fresh) {
    data = fresh;
    data.lines.sort((a, b) => ORDER.indexOf(a.part) - ORDER.indexOf(b.part) || a.number - b.number);
    document.getElementById("curves-count").textContent = counted();
    box.dataset.reports = data.lines.reduce((sum, line) => sum + line.steps.length, 0);
    if (box.dataset.reports === "0") {
      clear();
      missing();
      return;
    }
    if (log.value === null) log.value = asksForLog();
    data.lines.forEach((line) => { line.drawn = charts.smoothed(line.values, smoothing); });
    const now = JSON.stringify([data.lines.map((line) => [line.number, line.part]), Boolean(data.rest), [...hidden], log, metric, smoothing, data.metrics]);
    if (now === shape && plots.length) update();
    else { build(); shape = now; }
  }

  // The end of the axis of steps.
  const last = () => Math.max(data.steps ?? 0, ...data.lines.map((line) => line.steps.at(-1) ?? 0), 1);

  function counted() {
    const drawn = data.lines.filter((line) => line.steps.length).length;
    if (!data.trials) return "";
    const rest = data.rest ? `; the grey band holds four in five of the other ${data.rest.trials.toLocaleString("en")}` : "";
    return drawn < data.trials ? `${drawn} of ${data.trials.toLocaleString("en")} trials drawn${rest}` : drawn === 1 ? "one trial" : `all ${drawn} trials`;
  }

  function asksForLog() {
    const all = data.lines.filter((line) => line.part !== "diverged").flatMap((line) => line.drawn ?? line.values).filter((v) => v !== null);
    return all.length > 0 && Math.min(...all) > 0 && Math.max(...all) / Math.min(...all) > 8;
  }

  // Tables for uPlot: the band's three, then one a line; both plots have the same series, so that they can be in step.
  function tables() {
    const rest = data.rest && !hidden.has("rest") ? data.rest : { steps: [0], low: [null], middle: [null], high: [null] };
    const band = ["high", "low", "middle"].map((edge) => [rest.steps, positive(rest[edge], log.value)]);
    const lines = shown();
    return {
      lines,
      value: uPlot.join([...band, ...lines.map((line) => [line.steps, positive(line.drawn, log.value)])]),
      rate: uPlot.join([
        ...band.map(() => [[0], [null]]),
        ...lines.map((line) => [line.rates.map(([step]) => step), positive(line.rates.map(([, rate]) => rate), log.rate)]),
      ]),
    };
  }

  function build() {
    const range = charts.recall("curves-zoom");
    clear();
    const made = tables(), alone = metric === RATE;
    const places = ["value", "rate"].map((kind) => charts.stage(`${kind === "value" ? data.metric : "learning rate"} over optimizer steps, ${made.lines.length} trials`, keys));
    places[0].hidden = alone;
    charts.keepFocus(box, () => {
      if (!box.contains(legend)) box.replaceChildren(tools, legend, frame);
      charts.refill(tools, JSON.stringify([data.metrics, metric, smoothing]), choices);
      fillLegend();
      frame.replaceChildren(...places);
    });
    plots = [plot("value", made, places[0], 310), plot("rate", made, places[1], alone ? 420 : 210)];
    tips = plots.map((u) => charts.tip(u.over));
    if (range && range[0] < last()) plots.forEach((u) => u.setScale("x", { min: range[0], max: Math.min(range[1], last()) }));
  }

  // Which metric, and how smooth.
  function choices() {
    const names = data.metrics.map((name) => [name, name]);
    return [
      charts.choice("Show", [...names, [RATE, "learning rate"]], metric ?? data.metric, (name) => {
        metric = name;
        log.value = null;
        charts.remember("curves-metric", name);
        shape = "";
        refresh();
      }),
      charts.choice("Smoothing", charts.SMOOTHINGS, String(smoothing), (weight) => {
        smoothing = Number(weight);
        charts.remember("curves-smoothing", smoothing);
        draw(data);
      }),
    ];
  }

  function update() {
    const made = tables();
    const zoomed = plots[0].zoomed;
    plots[0].lines = plots[1].lines = made.lines;
    plots[0].setData(made.value, !zoomed);
    plots[1].setData(made.rate, !zoomed);
    if (zoomed) plots.forEach((u) => u.redraw());
  }

  function clear() {
    for (const u of plots) u.destroy();
    plots = [];
    shape = "";
    focused = null;
  }

  function plot(kind, made, place, height) {
    const edge = { stroke: "transparent", points: { show: false }, spanGaps: true };
    const middle = { ...edge, stroke: charts.faint("other", 0.7), width: 1 };
    const options = {
      width: Math.max(200, box.clientWidth), height,
      padding: [10, 22, 0, 0],
      legend: { show: false },
      focus: { alpha: 0.2 },
      cursor: {
        sync: { key: "job", setSeries: true, scales: ["x", null] },
        focus: { prox: 28 },
        points: { size: 7 },
        drag: { x: true, y: false, dist: 6 },
      },
      scales: {
        x: { time: false, range: charts.whole([0, last()]) },
        y: { distr: log[kind] ? 3 : 1, range: (u, low, high) => within(u, kind, low, high) },
      },
      axes: [
        charts.steps(),
        (log[kind] ? charts.logAxis : charts.axis)({ label: kind === "value" ? data.metric : "learning rate", size: 58, values: kind === "value" ? charts.labels : charts.rates }),
      ],
      bands: [{ series: [1, 2], fill: charts.faint("other", 0.22) }],
      series: [{ label: "step" }, edge, edge, middle, ...made.lines.map((line) => series(line))],
      hooks: {
        setSeries: [(u, index) => { if (u === plots[0]) focus(index === null || index < 4 ? null : index); }],
        setCursor: [(u) => point(u)],
        setScale: [(u, key) => { if (key === "x") together(u); }],
        draw: [(u) => { if (kind === "value") mark(u); }],
        ready: [(u) => u.over.addEventListener("click", () => { if (!dragged()) open(); })],
      },
    };
    const u = new uPlot(options, made[kind], place);
    u.lines = made.lines;
    u.kind = kind;
    return u;
  }

  function series(line) {
    const { stroke, width, dash } = drawnAs(line.part);
    return { stroke, width, dash, spanGaps: true, points: { show: line.steps.length < 2, size: 5 } };
  }

  // The ends of the value axis, from what can be seen now; runs that flew off must not press all others flat.
  function within(u, kind, low, high) {
    if (low === null || high === null || kind === "rate") {
      if (low === null) return [log[kind] ? 0.1 : 0, 1];
      if (log[kind]) return [low / 1.3, high * 1.3];
      const rates = shown().filter((line) => TELLING.includes(line.part)).flatMap((line) => line.rates);
      return [0, (rates.length ? Math.max(...rates.map(([, rate]) => rate)) : high) * 1.06 || 1];
    }
    const lines = u.lines ?? shown();
    const [from, to] = u.series[0].idxs ?? [0, u.data[0].length - 1];
    const seen = [];
    lines.forEach((line, place) => {
      if (line.part === "diverged") return;
      const values = u.data[place + 4];
      for (let i = from; i <= to; i += 1) if (values[i] !== null && values[i] !== undefined) seen.push(values[i]);
    });
    if (!seen.length) return log.value ? [low / 1.3, high * 1.3] : [low, high === low ? low + 1 : high];
    seen.sort((a, b) => a - b);
    const worst = data.goal === "minimize" ? seen[0] : seen[Math.floor(seen.length * 0.01)];
    const top = data.goal === "maximize" ? seen.at(-1) : seen[Math.ceil(seen.length * 0.99) - 1];
    if (log.value) return [worst / 1.12, top * 1.12];
    const room = (top - worst) * 0.05 || Math.abs(top) * 0.05 || 1;
    return [worst - room, top + room];
  }

  function together(u) {
    const { min, max } = u.scales.x;
    u.zoomed = min > 0 || max < last();
    charts.keepZoom(box, "curves-zoom", u.zoomed ? [min, max] : null);
    for (const other of plots) {
      if (other !== u && (other.scales.x.min !== min || other.scales.x.max !== max)) other.setScale("x", { min, max });
    }
  }

  function focus(index) {
    focused = index;
    if (index === null) tips.forEach((one) => one.hide());
  }

  function point(u) {
    const tip = tips[plots.indexOf(u)];
    const line = focused === null ? null : plots[0].lines[focused - 4];
    const { left, top, idx } = u.cursor;
    if (!tip) return;
    if (!line || left < 0 || idx === null || !u.over.matches(":hover")) { tip.hide(); return; }
    tip.show(described(u, line, idx), left, top);
  }

  function described(u, line, idx) {
    const step = u.data[0][idx], value = u.data[focused][idx];
    const at = value === null || value === undefined ? [] : [`step ${step.toLocaleString("en")}: ${u.kind === "rate" ? charts.rate(value) : charts.number(value)}`];
    const end = line.value === null ? line.state : `${data.aim} ${charts.number(line.value)} at its end`;
    return [`Trial ${line.number}, ${line.part === "winner" ? "the best" : PARTS[line.part].name}`, line.words, end, ...at];
  }

  // The two that everything is measured by have their names at their ends.
  function mark(u) {
    const { ctx } = u, ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    ctx.textAlign = "right";
    const taken = [];
    const first = u.lines?.find((one) => one.role === "baseline" && one.part === "winner");  // nothing has beaten the baseline
    for (const part of ["winner", "baseline"]) {
      const line = u.lines?.find((one) => one.part === part);
      if (!line) continue;
      const last = line.steps.findLastIndex((step, i) => line.drawn[i] !== null && step <= u.scales.x.max);
      if (last < 0 || line.steps[last] < u.scales.x.min) continue;
      const x = u.valToPos(line.steps[last], "x", true) - 6 * ratio;
      const base = u.valToPos(line.drawn[last], "y", true);
      let y = part === "winner" ? base + 16 * ratio : base - 8 * ratio;
      y = Math.max(u.bbox.top + 14 * ratio, Math.min(y, u.bbox.top + u.bbox.height - 4 * ratio));
      while (taken.some((other) => Math.abs(other - y) < 15 * ratio)) y -= 16 * ratio;
      taken.push(y);
      ctx.lineWidth = 4 * ratio;
      ctx.strokeStyle = charts.colour("card");
      ctx.fillStyle = charts.colour(PARTS[part].colour);
      const words = first ? "best: the baseline" : part === "winner" ? "best" : "baseline";
      ctx.strokeText(words, x, y);
      ctx.fillText(words, x, y);
    }
    ctx.restore();
  }

  const dragged = charts.drags(box);

  function open() {
    const line = focused === null ? null : plots[0].lines[focused - 4];
    if (line) location.assign(box.dataset.trials + line.number);
  }

  function keys({ key }) {
    const u = plots[0], next = charts.turned(key, focused === null ? null : focused - 4, u.lines.length);
    if (next !== null) choose(next);
    else if (key === "Enter") open();
    else if (key === "Escape") unchoose();
    else return charts.zoomed(u, key);
    return true;
  }

  function choose(place) {
    const line = plots[0].lines[place];
    plots.forEach((u) => u.setSeries(place + 4, { focus: true }, false));
    focused = place + 4;
    const shown = plots[metric === RATE ? 1 : 0], words = described(shown, line, shown.data[0].length - 1);
    tips[plots.indexOf(shown)].show(words, shown.over.clientWidth / 2, 20);
    shown.root.closest(".plot").say(words);
  }

  function unchoose() {
    plots.forEach((u) => u.setSeries(null, { focus: false }, false));
    focus(null);
  }

  function fillLegend() {
    const parts = ORDER.filter((part) => data.lines.some((line) => line.part === part && line.steps.length)).reverse();
    const chips = parts.map((part) => {
      const count = data.lines.filter((line) => line.part === part && line.steps.length).length;
      const single = part === "winner" || part === "baseline";
      return chip(part, single ? PARTS[part].name : `${PARTS[part].name} (${count})`, drawnAs(part));
    });
    if (data.rest) chips.push(chip("rest", "the others", { stroke: charts.faint("other", 0.35), width: 8 }));
    const gap = charts.element("span", "gap");
    legend.replaceChildren(...chips, gap, scale("value", `log ${data.metric}`), scale("rate", "log rate"), charts.everything(() => plots));
  }

  function chip(part, words, style) {
    const button = charts.element("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(!hidden.has(part)));
    button.append(charts.sample(style), charts.element("span", "", words));
    button.addEventListener("click", () => {
      if (hidden.has(part)) hidden.delete(part);
      else hidden.add(part);
      charts.remember("curves-hidden", [...hidden]);
      rebuilt();
    });
    button.dataset.part = part;
    return button;
  }

  function scale(kind, words) {
    return charts.toggle(words, Boolean(log[kind]), () => {
      log[kind] = !log[kind];
      charts.remember("curves-log", log);
      rebuilt();
    });
  }

  function rebuilt() {
    shape = "";
    draw(data);
  }

  charts.fit(box, () => plots);
  document.addEventListener("theme", () => { if (data) { shape = ""; draw(data); } });

  async function refresh() {
    const asked = metric && metric !== RATE ? `?${new URLSearchParams({ metric })}` : "";
    const text = await charts.fetched(box.dataset.src + asked);
    if (text !== null) draw(JSON.parse(text));
    else if (asked && data && !data.metrics.includes(metric)) metric = null;  // nobody reports it any more
  }
  return { refresh };
})();
