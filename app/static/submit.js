// The form of a job: while it is filled in, the server says what it amounts to, what it costs and what is wrong with it,
// and draws the schedules. The form works without this, too.
"use strict";

(() => {
  const form = document.getElementById("job-form");
  const preview = document.getElementById("preview");
  const SVG = "http://www.w3.org/2000/svg";
  const COLOURS = 8, DASHES = [undefined, [7, 3], [2, 3]];
  // What a form that nobody has touched lacks is no mistake yet, nor what a task needs that was just chosen; one that came
  // back with mistakes says them.
  let touched = form.querySelector("[data-wrong]:not([hidden])") !== null;
  let timer = 0, asked = 0, u = null, seen = "", last = null;

  // Sliders: a knob is moved with the hand, and the number beside it says where it stands.
  const places = 200;
  function slider(field) {
    const box = field.closest(".between");
    if (!box || box.dataset.list !== undefined || !box.dataset.low) return;
    const log = box.dataset.log !== undefined && Number(box.dataset.low) > 0;
    const [low, high] = [Number(box.dataset.low), Number(box.dataset.high)].map((end) => (log ? Math.log(end) : end));
    const made = document.createElement("input");
    made.type = "range";
    made.min = 0;
    made.max = places;
    made.setAttribute("aria-label", `${field.getAttribute("aria-label")}, slider`);
    const put = () => {
      const value = Number(field.value);
      const at = field.value === "" ? NaN : ((log ? Math.log(value) : value) - low) / (high - low);
      made.value = Number.isFinite(at) ? Math.round(at * places) : field.name.endsWith(":to") ? places : 0;
    };
    const take = () => {
      const at = low + (made.value / places) * (high - low);
      const value = log ? Math.exp(at) : at;
      field.value = box.dataset.whole !== undefined ? Math.round(value) : Number(value.toPrecision(3));
    };
    made.addEventListener("input", () => { take(); soon(); });
    field.addEventListener("input", put);
    put();
    field.after(made);
  }

  // A knob that was just taken in hand stands where its slider does.
  function start(select) {
    for (const field of select.closest(".knob").querySelectorAll(".between input:not([type=range])")) {
      const used = select.value === "range" || (select.value === "fixed" && !field.name.endsWith(":to"));
      if (!used || field.value !== "") continue;
      const { low, high, log } = field.closest(".between").dataset;
      if (low === undefined) continue;
      const way = { fixed: 0.5, range: field.name.endsWith(":to") ? 0.75 : 0.25 }[select.value];
      const ends = [Number(low), Number(high)];
      const value = log !== undefined && ends[0] > 0 ? ends[0] * (ends[1] / ends[0]) ** way : ends[0] + way * (ends[1] - ends[0]);
      field.value = field.closest("[data-whole]") ? Math.round(value) : Number(value.toPrecision(2));
      field.dispatchEvent(new Event("input"));
    }
  }

  form.querySelectorAll(".between input").forEach(slider);
  form.addEventListener("input", (event) => { touched ||= event.target.name !== "/task/name"; soon(); });
  form.addEventListener("change", (event) => {
    if (event.target.name?.endsWith(":how")) start(event.target);
    soon();
  });
  document.addEventListener("htmx:afterSettle", () => soon());

  function soon() {
    clearTimeout(timer);
    timer = setTimeout(validate, 150);
  }

  async function validate() {
    const mine = asked += 1;
    const answer = await fetch(`${form.getAttribute("action")}/check`, { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "application/json" } }).catch(() => null);
    if (!answer?.ok || mine !== asked) return;
    last = await answer.json();
    show(last);
  }

  function show({ job, cost, baseline, wrong, curves }) {
    document.getElementById("json").textContent = JSON.stringify(job, null, 2);
    document.getElementById("cost").textContent = cost ? costs(cost) : "";
    document.getElementById("baseline").textContent = baseline ? `Trial 0 will be ${/^untuned/.test(baseline) ? "the " : ""}${baseline}.` : "";
    errors(touched ? wrong : {});
    for (const svg of form.querySelectorAll(".spark")) spark(svg, curves[svg.dataset.family] ?? []);
    const now = JSON.stringify(curves);
    if (now !== seen) { seen = now; draw(curves); }
  }

  function costs({ total_full_runs: runs, total_steps: steps, confirm_full_runs: confirm }) {
    if (runs === null) return "Bounded by time only.";
    const all = steps === null ? "" : `, ${steps.toLocaleString("en")} steps`;
    return `At most ${charts.number(runs)} full runs${all}; ${charts.number(confirm)} of them to confirm.`;
  }

  function errors(wrong) {
    const left = { ...wrong };
    for (const place of form.querySelectorAll("[data-wrong]")) {
      const name = place.dataset.wrong, words = wrong[name];
      delete left[name];
      place.hidden = words === undefined;
      place.textContent = words ?? "";
      const field = document.getElementById(name) ?? document.getElementById(`${name}:how`);
      if (words === undefined) field?.removeAttribute("aria-invalid");
      else { field?.setAttribute("aria-invalid", "true"); place.closest("details")?.setAttribute("open", ""); }
    }
    const box = document.getElementById("wrong-elsewhere");
    box.hidden = Object.keys(left).length === 0;
    box.replaceChildren(...Object.entries(left).map(([name, words]) => charts.element("li", "", `${name}: ${words}`)));
  }

  const families = () => [...form.querySelectorAll(".spark")].map((svg) => svg.dataset.family);
  const place = (name, curves) => families().filter((one) => one in curves).indexOf(name);
  const stroke = (at) => charts.colour(`family-${at % COLOURS}`);

  function spark(svg, lines) {
    const top = Math.max(1, ...lines.flat().map(([, rate]) => rate));
    svg.replaceChildren(...lines.map((line, at) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", line.map(([u, rate], i) => `${i ? "L" : "M"}${(2 + 116 * u).toFixed(1)} ${(33 - 30 * (rate / top)).toFixed(1)}`).join(""));
      path.setAttribute("class", at ? "end" : "middle");
      return path;
    }).reverse());
  }

  function draw(curves) {
    const names = families().filter((name) => curves[name]?.length);
    u?.destroy();
    u = null;
    if (!names.length) { preview.replaceChildren(charts.element("p", "dim", "Tick a schedule to see its curve.")); return; }
    const legend = charts.element("div", "legend");
    const lines = names.map((name) => ({ name, line: curves[name][0], main: true, at: place(name, curves) }));
    for (const name of names) {
      const chip = charts.element("span", "badge");
      chip.append(charts.sample(style({ main: true, at: place(name, curves) })), charts.element("span", "", name));
      legend.append(chip);
    }
    const plot = charts.element("div", "plot");
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `The factor of the peak rate over a run for ${names.join(", ")}`);
    plot.append(charts.element("h3", "", "factor of the peak rate over the run"));
    preview.replaceChildren(plot, legend);
    u = new uPlot({
      width: Math.max(200, preview.clientWidth), height: 260, padding: [10, 18, 0, 0],
      legend: { show: false },
      cursor: { focus: { prox: 20 }, points: { show: false }, drag: { x: false, y: false } },
      focus: { alpha: 0.15 },
      scales: { x: { time: false, range: () => [0, 1] }, y: { range: (self, low, high) => [0, Math.max(1, high) * 1.04] } },
      axes: [charts.axis({ values: (self, values) => values.map((v) => `${Math.round(v * 100)} %`), size: 28 }), charts.axis({ size: 44, values: charts.labels })],
      series: [{}, ...lines.map((line) => ({ ...style(line), points: { show: false }, spanGaps: true }))],
      hooks: { setSeries: [(self, at) => { name = at ? lines[at - 1].name : null; }], setCursor: [(self) => tell(self)] },
    }, uPlot.join(lines.map(({ line }) => [line.map(([x]) => x), line.map(([, y]) => y)])), plot);
    let name = null;
    const tip = charts.tip(u.over);
    function tell(self) {
      if (!name || self.cursor.left < 0) tip.hide();
      else tip.show([name], self.cursor.left, self.cursor.top);
    }
  }

  const style = ({ main, at }) => ({ stroke: stroke(at), width: main ? 2.2 : 0.8, dash: DASHES[Math.floor(at / COLOURS) % 3] });

  charts.fit(preview, () => (u ? [u] : []));
  document.addEventListener("theme", () => { if (last) { seen = ""; show(last); } });
  document.body.addEventListener("back", () => soon());
  validate();
})();
