// What every page has: light or dark, copying, times that tick, changes that are said aloud, and refreshing that does not
// pull the page from under anybody's fingers.
"use strict";

const root = document.documentElement;
const SELF = ["news", "later", "answer", "back"];  // what a part refreshes upon by itself

document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(root).colorScheme === "dark" ||
    (getComputedStyle(root).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  const theme = dark ? "light" : "dark";
  root.dataset.theme = theme;
  // A cookie, so that the server renders the next page in it at once.
  document.cookie = `lrtune-theme=${theme}; path=${root.dataset.root || "/"}; max-age=31536000; SameSite=Strict${location.protocol === "https:" ? "; Secure" : ""}`;
  document.dispatchEvent(new Event("theme"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("theme")));

// A part that refreshes by itself waits while the keyboard is in it: its links would vanish under the focus.
document.addEventListener("htmx:beforeRequest", (event) => {
  const { elt, target, requestConfig } = event.detail;
  const byItself = !requestConfig.triggeringEvent || SELF.includes(requestConfig.triggeringEvent.type);
  const held = elt === target && (elt.contains(document.activeElement) || elt.querySelector(":popover-open"));
  if (byItself ? alive.away || held : !alive.here()) event.preventDefault();
});

// How long ago a moment was, in the words of `since` in app/rendering.py, by the server's clock.
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
function since(moment) {
  const seconds = (Date.now() + alive.skew - moment) / 1000;
  if (seconds < 5) return "just now";
  const whole = Math.round(seconds), [size, unit] = UNITS.find(([one]) => whole >= one);
  return `${Math.floor(whole / size)} ${unit} ago`;
}
setInterval(() => {
  if (document.hidden || alive.skew === null) return;
  for (const one of document.querySelectorAll("time[data-ago]")) {
    const words = since(Date.parse(one.dateTime));
    if (one.textContent !== words) one.textContent = words;
  }
}, 1000);

// What was chosen in a list stays chosen when it is fetched again.
let chosen = [];
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  chosen = [...detail.target.querySelectorAll("input[name=job]:checked")].map((one) => one.value);
});
document.addEventListener("htmx:afterSettle", () => {
  for (const one of document.querySelectorAll("input[name=job]")) one.checked ||= chosen.includes(one.value);
});

// What has changed in a part that was fetched again is said to screen readers: `data-say` has it in words.
const known = new Map();
function learn() {
  const news = [];
  for (const one of document.querySelectorAll("[data-say]")) {
    if (known.has(one.id) && known.get(one.id) !== one.dataset.say) news.push(one.dataset.say);
    known.set(one.id, one.dataset.say);
  }
  if (news.length) alive.say(news.join(". "));
}
document.addEventListener("htmx:afterSettle", learn);
learn();

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const done = await copied(source);
  button.textContent = done ? "Copied" : "Press Ctrl+C";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});

// Without TLS on a foreign host a page has no clipboard; then the text is selected, to be copied by hand.
async function copied(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(source);
    return document.execCommand("copy");
  }
}
