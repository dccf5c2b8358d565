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
  // As `rate` in lrtune/analysis/words.py writes it: 2.26e-2, 0.3.
  const rate = (value) => {
    if (value === null || value === undefined) return "–";
    const size = Math.abs(Number(value.toPrecision(3)));
    if (value === 0 || (size >= 0.1 && size < 1000)) return String(Number(value.toPrecision(3)));
    const [mantissa, power] = value.toExponential(2).split("e");
    return `${Number(mantissa)}e${Number(power)}`;
  };
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;  // never as HTML: names and words come from users
    return made;
  };
  // The steps that labels may be apart: as uPlot's own, which end at 5e32, where a loss that blows up does not.
  const APART = Array.from({ length: 340 }, (_, at) => [1, 2, 2.5, 5].map((first) => Number(`${first}e${at - 32}`))).flat();
  const axis = (more = {}) => ({
    incrs: APART,
    stroke: colour("dim"),
    grid: { stroke: colour("line"), width: 1 },
    ticks: { stroke: colour("line"), width: 1, size: 4 },
    font: "12px system-ui, sans-serif",
    labelFont: "12px system-ui, sans-serif",
    labelSize: 20,
    labelGap: 0,
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
    const room = axisIndex === 0 ? u.bbox.width / 46 : u.bbox.height / 24, most = room / (devicePixelRatio || 1) / decades;
    const leads = most < 3 ? [1] : decades > 1.2 || most < 8 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
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
  // As many digits as it takes to tell one from the next.
  const labels = (u, values) => {
    const shown = values.filter((value) => value !== null);
    let digits = 3;
    while (digits < 12 && new Set(shown.map((value) => number(value, digits))).size < shown.length) digits += 1;
    return values.map((value) => (value === null ? "" : number(value, digits)));
  };
  const rates = (u, values) => values.map((value) => (value === null ? "" : rate(value)));
  const steps = (more = {}) => axis({ label: "optimizer steps", size: 28, values: (u, values) => values.map((v) => v.toLocaleString("en")), ...more });

  // An answer of the server; null while it is away, or has nothing to draw.
  const fetched = async (path) => {
    try {
      const answer = await fetch(path, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(30000) });
      return answer.status === 200 ? await answer.text() : null;
    } catch { return null; }
  };

  // What somebody has chosen on a page, until the tab is closed.
  const place = (name) => `${location.pathname}#${name}`;
  const recall = (name, usual = null) => {
    try { return JSON.parse(sessionStorage.getItem(place(name))) ?? usual; } catch { return usual; }
  };
  const remember = (name, value) => {
    try { sessionStorage.setItem(place(name), JSON.stringify(value)); } catch { /* a browser that keeps nothing */ }
  };

  // Where there is nothing to draw: what will come, or that nothing has, once the job is over.
  // The end may be heard of only after this was said.
  const over = () => document.getElementById("summary")?.dataset.over === "yes";
  const missing = (box, coming, none) => {
    nothing(box, over() ? none : coming);
    box.firstChild.dataset.none = none;
  };
  document.addEventListener("htmx:afterSettle", () => {
    if (over()) for (const one of document.querySelectorAll("[data-none]")) one.textContent = one.dataset.none;
  });
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

  // What is seen of a chart, kept until somebody shows all; `box` says it to whoever looks from outside.
  const keepZoom = (box, name, seen) => {
    remember(name, seen);
    box.dataset.zoom = seen ? seen.map((end) => end.toPrecision(4)).join(" ") : "";
  };

  // A place to stand for the keyboard, and what was chosen there said aloud.
  const stage = (words, keys) => {
    const made = element("div", "plot");
    made.tabIndex = 0;
    made.setAttribute("role", "group");
    made.setAttribute("aria-label", words);
    made.setAttribute("aria-describedby", "keys");
    made.dataset.part = words.split(",")[0];
    const said = element("p", "unseen");
    said.setAttribute("aria-live", "polite");
    made.append(said);
    made.addEventListener("keydown", (event) => { if (event.target === made && keys(event)) event.preventDefault(); });
    made.say = (lines) => { said.textContent = lines.join(", "); };
    return made;
  };
  // What is made anew while somebody stands in it has the focus where it was: parts are known by their `data-part`.
  const keepFocus = (box, make) => {
    const part = box.contains(document.activeElement) ? document.activeElement.dataset.part : undefined;
    make();
    if (part !== undefined) [...box.querySelectorAll("[data-part]")].find((one) => one.dataset.part === part)?.focus({ preventScroll: true });
  };
  // The same element with other children, unless what they are made of is as before: an open list of choices stays open.
  const refill = (made, key, children) => {
    if (made.dataset.key === key) return;
    made.dataset.key = key;
    made.replaceChildren(...children());
  };
  const zoomed = (u, key) => {
    if (key === "+" || key === "=") zoom(u, 0.6);
    else if (key === "-") zoom(u, 1 / 0.6);
    else if (key === "0") showAll(u);
    else return false;
    return true;
  };
  const TURNS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const turned = (key, at, count) => {
    if (!(key in TURNS) || !count) return null;
    return at === null ? (TURNS[key] > 0 ? 0 : count - 1) : (at + TURNS[key] + count) % count;
  };

  // The marks of a picture, a trial each: chosen by the mouse or the keys, opened by a click or Enter. `at` is where one
  // is, in the picture's pixels, or null; `x` its value along the axis; `said` what is shown and read out of it.
  const marks = (box, { at, x, said }) => {
    const dragged = drags(box);
    let u = null, place = null, hint = null, all = [], near = null;
    const choose = (one, left, top) => {
      if (one !== near) { near = one; u.redraw(false); }
      if (one) hint.show(said(one), left, top);
      else hint.hide();
    };
    const open = () => { if (near) location.assign(box.dataset.trials + near.number); };
    return {
      near: () => near,
      begin(found) { all = found; near = hint = null; },  // of a picture that is about to be drawn
      on(drawn, stage) {
        u = drawn;
        place = stage;
        hint = tip(u.over);
        u.over.addEventListener("click", () => { if (!dragged()) open(); });
      },
      hover(self) {
        const { left, top } = self.cursor, ratio = devicePixelRatio || 1;
        if (!hint || (left < 0 && place === document.activeElement)) return;
        let found = null, least = 14 ** 2;
        for (const one of left < 0 ? [] : all) {
          const there = at(self, one);
          if (!there) continue;
          const away = ((there.x - self.bbox.left) / ratio - left) ** 2 + ((there.y - self.bbox.top) / ratio - top) ** 2;
          if (away < least) { least = away; found = one; }
        }
        choose(found, left, top);
      },
      keys({ key }) {
        const { min, max } = u.scales.x, seen = all.filter((one) => x(one) >= min && x(one) <= max);
        const now = near ? seen.indexOf(near) : -1, next = turned(key, now < 0 ? null : now, seen.length);
        if (next !== null) {
          const there = at(u, seen[next]), ratio = devicePixelRatio || 1;
          choose(seen[next], (there.x - u.bbox.left) / ratio, (there.y - u.bbox.top) / ratio);
          place.say(said(seen[next]));
        } else if (key === "Enter") open();
        else if (key === "Escape") choose(null);
        else return zoomed(u, key);
        return true;
      },
    };
  };

  const toggle = (words, pressed, press) => {
    const button = element("button", "scale", words);
    button.type = "button";
    button.dataset.part = words;
    button.setAttribute("aria-pressed", String(pressed));
    button.addEventListener("click", press);
    return button;
  };
  const everything = (shown) => {
    const button = element("button", "", "show all");
    button.type = "button";
    button.dataset.part = "all";
    button.addEventListener("click", () => shown().forEach(showAll));
    return button;
  };
  const choice = (words, options, chosen, choose) => {
    const label = element("label", "", `${words} `), select = element("select");
    select.dataset.part = words;
    for (const [value, text] of options) {
      const option = element("option", "", text);
      option.value = value;
      option.selected = value === chosen;
      select.append(option);
    }
    select.addEventListener("change", () => choose(select.value));
    label.append(select);
    return label;
  };
  // An exponential moving average, corrected for its beginning; 0 leaves values as they are.
  const SMOOTHINGS = [["0", "none"], ["0.5", "light"], ["0.8", "strong"], ["0.95", "very strong"]];
  const smoothed = (values, weight) => {
    if (!weight) return values;
    let sum = 0, mass = 0;
    return values.map((value) => {
      if (value === null || value === undefined) return value;
      sum = weight * sum + (1 - weight) * value;
      mass = weight * mass + (1 - weight);
      return sum / mass;
    });
  };

  // The same in words and numbers, for those who do not see a picture, or want to copy from it.
  const table = (words, heads, rows, kept) => {
    const made = element("details", "small"), inner = element("table"), scroll = element("div", "scroll");
    const line = (cells, tag) => {
      const row = element("tr");
      for (const text of cells) row.append(element(tag, "", text));
      for (const cell of row.children) if (tag === "th") cell.scope = "col";
      return row;
    };
    const head = element("thead"), body = element("tbody");
    head.append(line(heads, "th"));
    body.append(...rows.map((cells) => line(cells, "td")));
    inner.append(head, body);
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `${words}, as a table`);
    scroll.append(inner);
    made.append(element("summary", "", "As a table"), scroll);
    made.firstChild.dataset.part = "table";
    made.open = recall(kept, false);
    made.addEventListener("toggle", () => remember(kept, made.open));
    return made;
  };
  // Whether the mouse has been dragged since it was pressed: then the click that follows opens nothing.
  const drags = (box) => {
    let from = 0, way = 0;
    box.addEventListener("mousedown", (event) => { from = event.clientX; }, true);
    box.addEventListener("mouseup", (event) => { way = Math.abs(event.clientX - from); }, true);
    return () => way > 5;
  };

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

  return {
    colour, faint, number, rate, element, axis, logAxis, whole, labels, rates, steps, missing, nothing, tip, zoom, showAll, fit, sample,
    recall, remember, stage, marks, zoomed, turned, toggle, choice, table, drags, fetched, smoothed, SMOOTHINGS, keepZoom, keepFocus, refill, everything,
  };
})();
