// One trial: every metric it reported and its learning rate, over its steps.
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

  let last = null;
  function draw(trial) {
    last = trial;
    const metrics = [...new Set(trial.reports.flatMap((report) => Object.keys(report.metrics)))];
    const main = box.dataset.metric;
    metrics.sort((a, b) => Number(b === main) - Number(a === main) || a.localeCompare(b));
    for (const u of plots) u.destroy();
    box.replaceChildren();
    plots = metrics.map((metric) => plot(metric, trial.horizon, [trial.reports.map((r) => r.step), trial.reports.map((r) => r.metrics[metric] ?? null)], metric === main ? 240 : 150, metric === main ? "winner" : "best"));
    plots.push(plot("learning rate", trial.horizon, [trial.curve.map(([step]) => step), trial.curve.map(([, rate]) => rate)], 150, "running", true));
  }

  function plot(name, horizon, data, height, colour, fromZero = false) {
    const place = charts.element("div", "plot");
    place.setAttribute("role", "img");
    const seen = data[1].filter((value) => value !== null);
    place.setAttribute("aria-label", seen.length ? `${name} over steps, from ${charts.number(seen[0])} to ${charts.number(seen.at(-1))}` : `${name}: nothing yet`);
    place.append(charts.element("h3", "", name));
    box.append(place);
    const made = new uPlot({
      width: Math.max(200, box.clientWidth), height, padding: [10, 22, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "trial", scales: ["x", null] }, points: { size: 7 }, drag: { x: true, y: false, dist: 6 } },
      scales: {
        x: { time: false, range: charts.whole([0, horizon]) },
        y: { range: (u, low, high) => ends(low, high, fromZero) },
      },
      axes: [charts.axis({ values: (u, values) => values.map((v) => v.toLocaleString("en")), size: 28 }), charts.axis({ size: 62, values: charts.labels })],
      series: [{}, { stroke: charts.colour(colour), width: 2, spanGaps: true, points: { show: data[0].length < 3 } }],
      hooks: {
        setCursor: [(u) => tell(u, name, tip)],
      },
    }, data, place);
    const tip = charts.tip(made.over);
    return made;
  }

  function ends(low, high, fromZero) {
    if (low === null) return [0, 1];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
    return [fromZero ? 0 : low - room, high + room];
  }

  function tell(u, name, tip) {
    const { left, top, idx } = u.cursor;
    if (idx === null || left < 0 || !u.over.matches(":hover")) { tip?.hide(); return; }
    tip.show([`step ${u.data[0][idx].toLocaleString("en")}`, `${name} ${charts.number(u.data[1][idx], 5)}`], left, top);
  }

  charts.fit(box, () => plots);
  document.addEventListener("theme", () => { if (last) draw(last); });
  refresh();
})();
