// Uploading data: files are dropped or chosen, sent one after another, and each says how far it is, and what came of it.
"use strict";

(() => {
  const drop = document.getElementById("drop");
  if (!drop) return;
  const list = document.getElementById("uploads"), input = document.getElementById("file");
  const most = Number(drop.dataset.most);
  const waiting = [];
  let busy = false, depth = 0;

  const made = (tag, className, text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
  const size = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`);
  // What may be a name here; anything else in a file's name becomes a line.
  const named = (file) => file.name.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^A-Za-z0-9_ .()+-]/g, "_").replace(/^[^A-Za-z0-9_]+/, "").slice(-95) || "data";

  function take(files) {
    for (const file of files) waiting.push({ file, row: row(file) });
    next();
  }

  function row(file) {
    const item = made("li", ""), words = made("span", "", `${file.name}, ${size(file.size)}: waits`), bar = made("progress", "");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", `Sent of ${file.name}`);
    item.append(words, bar);
    list.append(item);
    return { item, words, bar };
  }

  async function next() {
    if (busy || !waiting.length) return;
    busy = true;
    const { file, row: shown } = waiting.shift();
    await send(file, shown);
    busy = false;
    next();
  }

  function send(file, { item, words, bar }) {
    const name = named(file), renamed = name === file.name ? "" : `, as ${name}`;
    const wrong = (text) => { words.textContent = `${file.name}: ${text}`; words.className = "error"; bar.remove(); alive.say(words.textContent); };
    if (file.size > most) { wrong(`it has ${size(file.size)}; at most ${size(most)} are accepted here`); return Promise.resolve(); }
    if (!alive.here()) { wrong("not sent, as the server does not answer"); return Promise.resolve(); }
    return new Promise((done) => {
      const call = new XMLHttpRequest();  // fetch does not say how far a body is
      call.open("POST", `${drop.dataset.src}?${new URLSearchParams({ name })}`);
      call.setRequestHeader("X-Token", drop.dataset.token);
      call.setRequestHeader("Accept", "application/json");
      call.setRequestHeader("Content-Type", "application/octet-stream");
      call.responseType = "json";
      call.upload.addEventListener("progress", ({ loaded, total }) => {
        bar.value = loaded / total;
        words.textContent = loaded < total ? `${file.name}${renamed}: ${Math.round((100 * loaded) / total)} % of ${size(total)}` : `${file.name}${renamed}: sent; it is being read`;
      });
      call.addEventListener("load", () => {
        if (call.status === 200 || call.status === 201) good(call, file, { item, words, bar }, renamed);
        else wrong(refused(call));
        done();
      });
      call.addEventListener("error", () => { wrong("the upload broke off; nothing of it was kept. Try again"); done(); });
      words.textContent = `${file.name}${renamed}: 0 % of ${size(file.size)}`;
      call.send(file);
    });
  }

  function good(call, file, { item, words, bar }, renamed) {
    const { name, id, rows, columns, kind, notes } = call.response;
    const link = made("a", "strong", name);
    link.href = `${drop.dataset.src}/${id}`;
    const found = `${rows.toLocaleString("en")} row${rows === 1 ? "" : "s"}${columns.length ? `, ${columns.length} column${columns.length > 1 ? "s" : ""}` : ""} of ${kind}${notes.length ? `; ${notes.length} thing${notes.length > 1 ? "s" : ""} worth knowing` : ""}`;
    bar.remove();
    words.replaceChildren(renamed && `${file.name}, which is called `, link, `${renamed && " here"}: ${call.status === 200 ? "was here already, " : ""}${found}`);
    item.append(words);
    alive.say(words.textContent);
    document.body.dispatchEvent(new Event("uploaded"));
  }

  function refused({ status, response }) {
    if (status === 401 || status === 403) return `${response?.detail ?? "not allowed"} Reload the page, and sign in again if it asks.`;
    const parts = (response?.errors ?? []).map((one) => one.detail);
    return parts.length ? parts.join("; ") : response?.detail ?? `the server answered ${status}`;
  }

  input.addEventListener("change", () => { take([...input.files]); input.value = ""; });
  // The whole page takes files, so that one dropped beside the box is not opened instead of it.
  const files = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => { if (files(event)) { depth += 1; drop.classList.add("over"); } });
  addEventListener("dragleave", (event) => { if (files(event) && (depth -= 1) <= 0) { depth = 0; drop.classList.remove("over"); } });
  addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
  addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    depth = 0;
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
  addEventListener("beforeunload", (event) => { if (busy) event.preventDefault(); });
})();
