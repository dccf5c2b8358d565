// A job's page stays in step with the job: the server says when something has changed, and its parts are fetched again.
"use strict";

(() => {
  const job = document.getElementById("job");
  let busy = false, again = false, answer = "", waited = 0, asked = false;

  // A refresh costs the server something, so the next one comes no sooner than four times what the last one took.
  async function refresh(slow) {
    if (busy) { again = true; return; }
    busy = true;
    again = false;
    const began = performance.now();
    try {
      await Promise.all([curves, ...(slow ? [landscape] : [])].map((part) => part.refresh()));
    } finally {
      const pause = Math.max(1000, 4 * (performance.now() - began));
      setTimeout(() => { busy = false; if (again) news(); }, pause);
    }
  }

  function news() {
    if (document.hidden) { again = true; return; }
    document.body.dispatchEvent(new Event("news"));
    waited += 1;
    const slow = asked || waited % 5 === 0;
    asked = false;
    if (slow) document.body.dispatchEvent(new Event("later"));
    refresh(slow);
  }

  // What takes a model to draw comes with every fifth piece of news, with another answer, and at the end.
  function later() {
    asked = true;
    if (busy) again = true;
    else news();
  }

  // The export and the map follow when there is another answer.
  document.addEventListener("htmx:afterSettle", () => {
    const now = document.getElementById("summary")?.dataset.answer ?? "";
    if (answer !== "" && now !== answer) { document.body.dispatchEvent(new Event("answer")); later(); }
    answer = now;
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && again && !busy) news(); });

  answer = document.getElementById("summary").dataset.answer;
  refresh(true);
  if (job.dataset.over === "yes") return;
  let stream = null, gone = false;
  document.addEventListener("htmx:responseError", ({ detail }) => { gone ||= detail.xhr.status === 404; });
  function follow() {
    let first = true;
    stream?.close();
    stream = new EventSource(job.dataset.live);
    stream.addEventListener("beat", (event) => {
      const { over } = JSON.parse(event.data);
      if (over) stream.close();
      if (over) later();
      else if (!first) { if (busy) again = true; else news(); }
      first = false;
    });
    stream.addEventListener("error", refused);
  }
  // A browser does not ask again for a stream that was refused, the job being deleted or the database away: the parts are
  // asked for instead, which says why, and where the job is still there it is listened to again.
  function refused({ target }) {
    if (target !== stream || target.readyState !== EventSource.CLOSED) return;
    news();
    setTimeout(() => { if (target === stream && !gone) { news(); follow(); } }, 10000);
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
