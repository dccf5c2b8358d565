// Whether the server is there. A page that has heard nothing for some seconds says so, keeps what it shows, sends nothing
// that would be lost, and goes on by itself: `back` is dispatched on the body, upon which its parts are fetched again.
"use strict";

const alive = (() => {
  const EVERY = 2000, PATIENCE = 2500;  // milliseconds; gone is known within their sum
  const banner = document.getElementById("away"), said = document.getElementById("said");
  const place = document.documentElement.dataset.root;
  let since = 0, heard = Date.now(), timer = 0, broken = 0, asking = null;
  const self = { away: false, skew: null, here, say };

  function say(words) {
    said.textContent = "";
    setTimeout(() => { said.textContent = words; }, 50);  // the same words twice are two news
  }

  // One question at a time; whoever asks meanwhile gets the same answer.
  function check() {
    asking ??= asked().finally(() => { asking = null; clearTimeout(timer); timer = setTimeout(round, EVERY); });
    return asking;
  }

  async function asked() {
    try {
      const answer = await fetch(`${place}/healthz`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error();
      const now = Date.parse(answer.headers.get("date"));
      heard = Date.now();
      if (now) self.skew = Math.abs(now - heard) < 2000 ? 0 : now - heard;  // the header has whole seconds
      if (self.away) back();
    } catch {
      if (leaving) return true;  // the browser has cut it off, because another page comes
      if (!self.away) gone();
    }
    return !self.away;
  }

  function round() { if (!document.hidden) check(); }

  function gone() {
    self.away = true;
    since = heard;
    show(`The server has not answered since ${clock(since)}. What you see is how things stood then; this page goes on by itself as soon as it answers.`);
  }

  function back() {
    self.away = false;
    broken = 0;
    show("");
    say("The server answers again.");
    document.body.dispatchEvent(new Event("back"));
  }

  function show(words) {
    banner.hidden = words === "";
    banner.textContent = words;
  }

  const clock = (moment) => new Date(moment).toLocaleTimeString("en-GB");

  // Whether something may be asked of the server; where it is away, nothing is, and the page says so.
  function here() {
    if (self.away) show(`Nothing was sent: the server has not answered since ${clock(since)}. Try again when this note is gone.`);
    return !self.away;
  }

  // A form is sent when the server is there, so that what was filled in is never lost to a browser's error page.
  document.addEventListener("submit", async (event) => {
    const { target: form, submitter } = event;
    if ((submitter?.getAttribute("formmethod") ?? form.method) !== "post" || form.dataset.sure === "yes") return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (form.dataset.sure === "asking") return;
    form.dataset.sure = "asking";
    const sure = await check();
    form.dataset.sure = sure ? "yes" : "";
    if (sure) form.requestSubmit(submitter); else here();
    form.dataset.sure = "";
  }, true);

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!self.away || !link || link.origin !== location.origin || link.getAttribute("href").startsWith("#")) return;
    event.preventDefault();
    event.stopPropagation();
    here();
  }, true);

  // A server that answers with errors, its database being away, is said as well, and so is what it refuses, such as news
  // of a job that was deleted; the next good answer ends it.
  document.addEventListener("htmx:sendError", () => check());
  document.addEventListener("htmx:responseError", ({ detail }) => {
    const { status, responseText } = detail.xhr;
    if (self.away || status === 401) return;
    broken ||= Date.now();
    const words = new DOMParser().parseFromString(responseText, "text/html").querySelector("[role=alert] p")?.textContent;
    if (status < 500) show(words ?? `The server refuses this (${status}).`);
    else show(`The server answers, but cannot say how things stand (${status}) since ${clock(broken)}; this page goes on by itself.`);
  });
  document.addEventListener("htmx:afterRequest", ({ detail }) => {
    if (detail.successful && broken && !self.away) { broken = 0; show(""); }
  });

  let leaving = false;
  addEventListener("pagehide", () => { leaving = true; });
  addEventListener("pageshow", () => { leaving = false; round(); });
  addEventListener("beforeunload", () => { leaving = true; setTimeout(() => { leaving = false; }, 3000); });
  document.addEventListener("visibilitychange", round);
  for (const word of ["online", "offline"]) addEventListener(word, () => check());
  check();
  return self;
})();
