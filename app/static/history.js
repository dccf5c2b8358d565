// How a search went: the best value over what the job had cost by then, and every complete run of the search.
"use strict";

(() => {
  const box = document.getElementById("history");
  let found = null, u = null, shape = "", place = null;
  const marks = charts.marks(box, { at: position, x: (end) => end.cost, said });

  const sign = () => (found.goal === "maximize" ? -1 : 1);

  function draw() {
    const text = document.getElementById("history-data")?.textContent;
    if (!text || text === shape) return;
    shape = text;
    found = JSON.parse(text);
    if (found.ends.length) build();
    else charts.missing(box, "The best value over the cost appears with the first complete run.", "No run of the search was complete, so none was the best.");
  }

  // The best so far is a stair: it stands from one run to the next that beats it.
  function stairs() {
    const best = found.ends.filter((end) => end.best), last = Math.max(found.cost, found.ends.at(-1).cost);
    const steps = [...best.map((end) => [end.cost, end.value]), [last, best.at(-1).value]];
    return [steps.map(([cost]) => cost), steps.map(([, value]) => value)];
  }

  function build() {
    u?.destroy();
    marks.begin(found.ends);
    const [costs, values] = stairs(), [low, high] = ends();
    const best = found.ends.filter((end) => end.best);
    place = charts.stage(`best ${found.metric} over cost: ${best.length} times better, from ${charts.number(values[0])} to ${charts.number(values.at(-1))} after ${charts.number(costs.at(-1), 3)} full runs`, marks.keys);
    const table = charts.table("How the search went", ["After full runs", found.metric, "Trial"], best.map((end) => [charts.number(end.cost, 3), charts.number(end.value), String(end.number)]), "history-table");
    charts.keepFocus(box, () => box.replaceChildren(place, table));
    u = new uPlot({
      width: Math.max(200, box.clientWidth), height: 240, padding: [12, 22, 0, 0],
      legend: { show: false },
      cursor: { points: { show: false }, x: false, y: false, drag: { x: true, y: false, dist: 6 } },
      scales: { x: { time: false, range: charts.whole([0, costs.at(-1) * 1.02]) }, y: { range: () => [low, high] } },
      axes: [
        charts.axis({ label: "cost in full runs", size: 28 }),
        charts.axis({ label: `best ${found.metric}`, size: 58, values: charts.labels }),
      ],
      series: [{}, { stroke: charts.colour("winner"), width: 2.5, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }],
      hooks: {
        draw: [dots],
        setCursor: [marks.hover],
      },
    }, [costs, values], place);
    marks.on(u, place);
  }

  // From the best to what three in four reach: the first runs of a search may be far off.
  function ends() {
    const values = found.ends.map((end) => end.value).sort((a, b) => sign() * (a - b));
    const stood = found.ends.filter((end) => end.best).map((end) => end.value);
    const far = [values[Math.floor(values.length * 0.75)], ...stood.slice(0, 2)].sort((a, b) => sign() * (b - a))[0];
    const room = Math.abs(far - values[0]) * 0.1 || Math.abs(far) * 0.05 || 1;
    return [Math.min(values[0], far) - room, Math.max(values[0], far) + room];
  }

  function position(self, end) {
    const x = self.valToPos(end.cost, "x", true), { left, top, width, height } = self.bbox;
    if (x < left || x > left + width) return null;
    return { x, y: Math.max(top + 5, Math.min(top + height - 5, self.valToPos(end.value, "y", true))) };
  }

  function dots(self) {
    const { ctx } = self, ratio = devicePixelRatio || 1;
    ctx.save();
    for (const end of found.ends) {
      const at = position(self, end);
      if (!at) continue;
      ctx.fillStyle = charts.colour(end.best ? "winner" : "other");
      ctx.beginPath();
      ctx.arc(at.x, at.y, (end === marks.near() ? 6 : end.best ? 4.5 : 2.5) * ratio, 0, 2 * Math.PI);
      ctx.fill();
    }
    ctx.restore();
  }

  function said(end) {
    return [`Trial ${end.number}${end.best ? ", the best so far" : ""}`, `${found.metric} ${charts.number(end.value)}`, `after ${charts.number(end.cost, 3)} full runs`];
  }

  charts.fit(box, () => (u ? [u] : []));
  document.addEventListener("theme", () => { if (found?.ends.length) build(); });
  document.addEventListener("htmx:afterSettle", draw);
})();
