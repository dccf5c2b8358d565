// Several jobs beside each other: the curve of each answer, and where the good rates of each lie.
"use strict";

(() => {
  const COLOURS = 8, DASHES = [undefined, [8, 4]];
  const jobs = [...document.querySelectorAll(".compared")].map((one, at) => ({ at, ...one.dataset }));
  const places = { curves: document.getElementById("compare-curves"), landscape: document.getElementById("compare-landscape") };
  const plots = [];
  const style = (at) => ({ stroke: charts.colour(`family-${at % COLOURS}`), width: 2, dash: DASHES[at % 2] });

  for (const mark of document.querySelectorAll(".mark[data-job]")) mark.append(charts.sample(style(Number(mark.dataset.job))));

  async function read(job, what) {
    try {
      const answer = await fetch(job.src + what, { headers: { Accept: "application/json" } });
      return answer.ok ? await answer.json() : null;
    } catch { return null; }
  }

  // One job's curve: that of its answer, or of its best run so far.
  function curve(found) {
    const line = found?.lines.find((one) => one.part === "winner");
    return line ? line.steps.map((step, at) => [step, line.values[at]]).filter(([, value]) => value !== null) : [];
  }

  // One job's map of rates: the best value near each rate, whatever the schedule.
  function rates(found, goal) {
    const best = new Map(), sign = goal === "maximize" ? -1 : 1;
    for (const { rate, value, fresh } of (found?.series ?? []).flatMap((one) => one.points)) {
      if (value === null || fresh) continue;
      const bin = Math.round(2 * Math.log2(rate)), there = best.get(bin);
      if (!there || sign * value < sign * there[1]) best.set(bin, [rate, value]);
    }
    return [...best.values()].sort((a, b) => a[0] - b[0]);
  }

  function draw(place, lines, { label, log, title, labels, at }) {
    const some = lines.filter(({ points }) => points.length);
    place.replaceChildren();
    if (!some.length) { charts.nothing(place, "Nothing yet: no run of these jobs is complete."); return; }
    const metrics = [...new Set(some.map(({ job }) => job.metric))].join(", ");
    place.append(charts.element("h3", "", `${metrics} over ${label}`));
    const legend = charts.element("div", "legend");
    for (const { job } of some) {
      const chip = charts.element("span", "badge");
      chip.append(charts.sample(style(job.at)), charts.element("span", "", job.name));
      legend.append(chip);
    }
    const box = charts.element("div", "");
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", `${title}. ${some.map(({ job, points }) => `${job.name}: ${summed(points, at)}`).join("; ")}`);
    place.append(box, legend);
    const data = uPlot.join(some.map(({ points }) => [points.map(([x]) => x), points.map(([, y]) => y)]));
    const numbers = { size: 30, values: labels, label, labelSize: 22, labelFont: "12px system-ui, sans-serif" };
    const made = new uPlot({
      width: Math.max(200, place.clientWidth), height: 320, padding: [10, 18, 0, 0],
      legend: { show: false },
      cursor: { focus: { prox: 24 }, drag: { x: true, y: false, dist: 6 } },
      focus: { alpha: 0.25 },
      scales: { x: { time: false, distr: log ? 3 : 1 } },
      axes: [log ? charts.logAxis(numbers) : charts.axis(numbers), charts.axis({ size: 62, values: charts.labels })],
      series: [{}, ...some.map(({ job }) => ({ ...style(job.at), spanGaps: true, points: { show: log, size: 6 } }))],
      hooks: { setSeries: [(self, at) => { near = at ? some[at - 1].job : null; }], setCursor: [tell] },
    }, data, box);
    let near = null;
    const tip = charts.tip(made.over);
    function tell(self) {
      const { left, top, idx } = self.cursor;
      const value = near && idx !== null ? self.data[1 + some.findIndex(({ job }) => job === near)][idx] : null;
      if (!near || left < 0) { tip?.hide(); return; }
      tip.show([near.name, ...(value == null ? [] : [`${charts.number(value, 5)} at ${at(self.data[0][idx])}`])], left, top);
    }
    plots.push(made);
  }

  const summed = (points, at) => `${points.length} points, from ${charts.number(points[0][1])} at ${at(points[0][0])} to ${charts.number(points.at(-1)[1])} at ${at(points.at(-1)[0])}`;

  let found = null;
  function redraw() {
    for (const u of plots.splice(0)) u.destroy();
    draw(places.curves, found.map(({ job, curves }) => ({ job, points: curve(curves) })), { label: "steps", log: false, title: "The metric of each answer over its steps", labels: charts.labels, at: charts.number });
    draw(places.landscape, found.map(({ job, curves, landscape }) => ({ job, points: rates(landscape, curves?.goal) })), { label: "peak learning rate", log: true, title: "The best value over the peak learning rate", labels: charts.rates, at: charts.rate });
  }

  async function refresh() {
    found = await Promise.all(jobs.map(async (job) => ({ job, curves: await read(job, "curves"), landscape: job.best === "yes" ? await read(job, "landscape") : null })));
    redraw();
  }
  charts.fit(places.curves, () => plots.slice(0, 1));
  charts.fit(places.landscape, () => plots.slice(1));
  document.addEventListener("theme", () => { if (found) redraw(); });
  document.body.addEventListener("back", refresh);
  refresh();
})();
