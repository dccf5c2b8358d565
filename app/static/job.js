// A job's page stays in step with the job: the server says when something has changed, and its parts are fetched again.
"use strict";

(() => {
  const job = document.getElementById("job");
  let busy = false, again = false, answer = "", waited = 0;

  // A refresh costs the server something, so the next one comes no sooner than four times what the last one took.
  async function refresh() {
    if (busy) { again = true; return; }
    busy = true;
    again = false;
    const began = performance.now();
    try {
      await curves.refresh();
    } catch { /* the server is away; the stream comes back with it */ }
    const pause = Math.max(1000, 4 * (performance.now() - began));
    setTimeout(() => { busy = false; if (again) news(); }, pause);
  }

  function news() {
    if (document.hidden) { again = true; return; }
    document.body.dispatchEvent(new Event("news"));
    waited += 1;
    if (waited % 5 === 0) document.body.dispatchEvent(new Event("later"));
    refresh();
  }

  // The export and the map follow when there is another answer.
  document.addEventListener("htmx:afterSettle", () => {
    const now = document.getElementById("summary")?.dataset.answer ?? "";
    if (answer !== "" && now !== answer) for (const word of ["answer", "later"]) document.body.dispatchEvent(new Event(word));
    answer = now;
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && again && !busy) news(); });

  answer = document.getElementById("summary").dataset.answer;
  refresh();
  if (job.dataset.over === "yes") return;
  let stream = null;
  function follow() {
    let first = true;
    stream?.close();
    stream = new EventSource(job.dataset.live);
    stream.addEventListener("beat", (event) => {
      const { over } = JSON.parse(event.data);
      if (over) stream.close();
      if (!first || over) { if (busy) again = true; else news(); }
      if (over) document.body.dispatchEvent(new Event("later"));
      first = false;
    });
  }
  // The server was away: whatever has happened meanwhile is fetched, and it is listened to again.
  document.body.addEventListener("back", () => { news(); follow(); });
  // A browser has six connections for a server: a page that nobody sees gives its own back.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stream.close();
    else if (document.getElementById("summary").dataset.over === "no") { news(); follow(); }
  });
  follow();
  addEventListener("pagehide", () => stream.close());
})();
