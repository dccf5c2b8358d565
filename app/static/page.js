// What every page has: light or dark, copying, and refreshing that does not pull the page from under anybody's fingers.
"use strict";

const root = document.documentElement;

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
  const byItself = !requestConfig.triggeringEvent || ["news", "later", "answer"].includes(requestConfig.triggeringEvent.type);
  if (byItself && elt === target && elt.contains(document.activeElement)) event.preventDefault();
});

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
