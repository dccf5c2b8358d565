// One trial: the metrics that it reported and its learning rate, over its steps.
"use strict";

(() => {
  const box = document.getElementById("trial");
  let plots = [];

  // A refresh that fails is tried again, less and less often; meanwhile the page says so.
  async function refresh(pause = 1000) {
    const trial = await seen();
    if (trial === null) {
      if (last === null) box.replaceChildren(charts.element("p", "dim", "The curves could not be fetched; trying again."));
      setTimeout(refresh, pause, Math.min(2 * pause, 30000));
      return;
    }
    draw(trial);
    if (["running", "waiting"].includes(trial.state)) setTimeout(refresh, 2000);
    else if (box.dataset.live === "yes") location.reload();  // it has ended: the words beside it have changed
  }

  async function seen() {
    try {
      const answer = await fetch(box.dataset.src, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(20000) });
      return answer.ok ? await answer.json() : null;
    } catch { return null; }
  }

  const ALL = "\u0000all", RATE = "\u0000rate", FEW = 3;  // no name of a metric has this character; metrics that are all shown at first
  const [tools, frame] = ["tools", ""].map((name) => charts.element("div", name));
  let last = null, shown = charts.recall("trial-shown"), smoothing = charts.recall("trial-smoothing", 0), log = charts.recall("trial-log", false);

  function draw(trial) {
    last = trial;
    const main = box.dataset.metric, metrics = [...new Set(trial.reports.flatMap((report) => Object.keys(report.metrics)))];
    metrics.sort((a, b) => Number(b === main) - Number(a === main) || a.localeCompare(b));
    const known = [ALL, RATE, ...metrics].includes(shown) ? shown : metrics.length > FEW ? main : ALL;
    for (const u of plots) u.destroy();
    charts.keepFocus(box, () => {
      if (!box.contains(frame)) box.replaceChildren(tools, frame);
      charts.refill(tools, JSON.stringify([metrics, known, smoothing, log]), () => choices(metrics, known));
      frame.replaceChildren();
      plots = drawn(trial, metrics, known);
    });
    const zoom = charts.recall("trial-zoom");
    if (zoom && zoom[0] < trial.horizon) plots[0].setScale("x", { min: zoom[0], max: Math.min(zoom[1], trial.horizon) });
  }

  function drawn(trial, metrics, known) {
    const main = box.dataset.metric;
    const made = (known === ALL ? metrics : metrics.filter((name) => name === known)).map((name) => of_metric(trial, name, name === main));
    made.push(plot("learning rate", trial.horizon, [trial.curve.map(([step]) => step), trial.curve.map(([, rate]) => rate)], known === RATE ? 300 : 170, "running"));
    return made;
  }

  function choices(metrics, known) {
    const again = (name, value) => { charts.remember(name, value); draw(last); };
    const names = metrics.map((name) => [name, name]), every = metrics.length > 1 ? [[ALL, "all metrics"]] : [];
    return [
      charts.choice("Show", [...every, ...names, [RATE, "learning rate"]], known === ALL && !every.length ? metrics[0] ?? RATE : known, (name) => again("trial-shown", shown = name)),
      charts.choice("Smoothing", charts.SMOOTHINGS, String(smoothing), (weight) => again("trial-smoothing", smoothing = Number(weight))),
      charts.element("span", "gap"),
      charts.toggle("log values", log, () => again("trial-log", log = !log)),
      charts.everything(() => plots),
    ];
  }

  function of_metric(trial, name, main) {
    const steps = trial.reports.map((report) => report.step), values = trial.reports.map((report) => report.metrics[name] ?? null);
    const lines = smoothing ? [charts.smoothed(values, smoothing), values] : [values];
    return plot(name, trial.horizon, [steps, ...lines], main ? 260 : 170, main ? "winner" : "best");
  }

  // The first line is what was asked for; where it is smoothed, the second is what was reported, pale.
  function plot(name, horizon, data, height, colour) {
    const rate = colour === "running", seen = data[1].filter((value) => value !== null);
    const positive = log && seen.length > 0 && Math.min(...data.slice(1).flat().filter((value) => value !== null)) > 0;
    const shape = seen.length ? `${name} over optimizer steps, from ${charts.number(seen[0])} to ${charts.number(seen.at(-1))}` : `${name}: nothing yet`;
    const place = charts.stage(shape, (event) => keys(made, event.key, say));
    frame.append(place);
    const line = { stroke: charts.colour(colour), width: 2, spanGaps: true, points: { show: data[0].length < 3 } };
    const made = new uPlot({
      width: Math.max(200, box.clientWidth), height, padding: [10, 22, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "trial", scales: ["x", null] }, points: { size: 7 }, drag: { x: true, y: false, dist: 6 } },
      scales: {
        x: { time: false, range: charts.whole([0, horizon]) },
        y: { distr: positive ? 3 : 1, range: (u, low, high) => ends(low, high, rate, positive) },
      },
      axes: [charts.steps(), (positive ? charts.logAxis : charts.axis)({ label: name, size: 62, values: rate ? charts.rates : charts.labels })],
      series: [{}, line, ...(data.length > 2 ? [{ ...line, stroke: charts.faint(colour, 0.35), width: 1 }] : [])],
      hooks: {
        setCursor: [(u) => tell(u)],
        setScale: [(u, key) => { if (key === "x") together(u, horizon); }],
      },
    }, data, place);
    const tip = charts.tip(made.over), number = rate ? charts.rate : (value) => charts.number(value, 5);
    const words = (idx) => [`step ${made.data[0][idx].toLocaleString("en")}`, `${name} ${number(made.data[1][idx])}`];
    const say = (idx) => {
      made.at = idx;
      tip.show(words(idx), made.valToPos(made.data[0][idx], "x"), 10);
      place.say(words(idx));
    };
    const tell = (u) => {
      const { left, top, idx } = u.cursor;
      if (idx === null || left < 0 || !u.over.matches(":hover")) { if (place !== document.activeElement) tip?.hide(); return; }
      tip.show(words(idx), left, top);
    };
    return made;
  }

  function keys(u, key, say) {
    const next = charts.turned(key, u.at ?? null, u.data[0].length);
    if (next === null) return charts.zoomed(u, key);
    say(next);
    return true;
  }

  // All charts show the same steps, and show them again when somebody comes back.
  function together(u, horizon) {
    const { min, max } = u.scales.x;
    charts.keepZoom(box, "trial-zoom", min > 0 || max < horizon ? [min, max] : null);
    for (const other of plots) {
      if (other !== u && (other.scales.x.min !== min || other.scales.x.max !== max)) other.setScale("x", { min, max });
    }
  }

  function ends(low, high, fromZero, logarithmic) {
    if (low === null) return logarithmic ? [0.1, 1] : [0, 1];
    if (logarithmic) return [low / 1.15, high * 1.15];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    return [fromZero ? 0 : low - room, high + room];
  }

  charts.fit(box, () => plots);
  document.addEventListener("theme", () => { if (last) draw(last); });
  refresh();
})();
