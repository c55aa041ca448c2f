// The dashboard's one script: local times, keys, running clocks, live pages.
// Every page works without it.
"use strict";

const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

// Times: the local one beside UTC.
const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
function showLocal(from) {
  for (const el of $$("time[datetime]", from)) {
    const text = local.format(new Date(el.dateTime));
    el.dataset.local = text;
    el.title = text + " local";
  }
}

// Clocks: an element with data-since counts from that time while it runs.
function tick() {
  for (const el of $$("[data-since]")) {
    const ms = Math.max(0, Date.now() - Date.parse(el.dataset.since));
    el.textContent = ms < 10000 ? (ms / 1000).toFixed(1) + " s" : Math.round(ms / 1000) + " s";
  }
}

// Rows: j and k move, Enter opens, x selects.
let at = -1;
function rows() { return $$("main table[data-rows] tbody tr"); }
function moveTo(n) {
  const all = rows();
  if (!all.length) return;
  all.forEach((row) => row.classList.remove("at"));
  at = Math.max(0, Math.min(all.length - 1, n));
  all[at].classList.add("at");
  all[at].scrollIntoView({ block: "nearest" });
  const link = $("a[href]", all[at]);
  if (link) link.focus({ preventScroll: true });
}

// Search: in the page's own field, or else in that of the devices.
function search() {
  const q = $("main input[name=q]");
  if (q) { q.focus(); q.select(); return; }
  const devices = $('header a[href="/devices"]');
  if (devices) location.assign(devices.href + "#search");
}

const keys = {
  "/": search,
  "?": () => { const d = $("dialog#keys"); if (d) d.showModal(); },
  j: () => moveTo(at + 1),
  k: () => moveTo(at - 1),
  Enter: () => { const link = at >= 0 && $("a[href]", rows()[at]); if (link) link.click(); },
  x: () => { const box = at >= 0 && $("input[type=checkbox]", rows()[at]); if (box) box.click(); },
};

let afterG = 0;
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target;
  if (target instanceof Element && target.closest("input:not([type=checkbox], [type=radio]), textarea, select, dialog[open]")) {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (event.key === "Enter" && target instanceof Element && target.closest("a, button, summary")) return;
  if (Date.now() - afterG < 1500) {
    afterG = 0;
    const link = $(`[data-go="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); link.click(); return; }
  }
  if (event.key === "g") { afterG = Date.now(); return; }
  const act = keys[event.key];
  if (act) { event.preventDefault(); act(); }
}

// Selection: a box in the head of a table selects its rows; how many are ticked
// is counted.
const boxes = (name) => $$(`input[type=checkbox][name="${CSS.escape(name)}"]`);
function countTicked() {
  for (const el of $$("[data-ticked]")) el.textContent = `(${boxes(el.dataset.ticked).filter((box) => box.checked).length})`;
}
function onChange(event) {
  const all = event.target;
  if (all instanceof HTMLInputElement && all.dataset.all) for (const box of boxes(all.dataset.all)) box.checked = all.checked;
  countTicked();
}

// Live: each event is the main part anew. Elements with data-part are put in place of
// the old ones where the server changed them, so that what a person typed,
// opened or selected elsewhere stays.
function parts(root) {
  return new Map($$("[data-part]", root).map((el) => [el.dataset.part, el]));
}
const textOf = (found) => new Map([...found].map(([name, el]) => [name, el.outerHTML]));
let served = textOf(parts(document)); // before anything below touches the page
function refresh(html) {
  const fresh = new DOMParser().parseFromString("<main>" + html + "</main>", "text/html");
  const next = parts(fresh);
  const before = served;
  served = textOf(next);
  const here = parts(document);
  for (const [name, el] of next) {
    const old = here.get(name);
    if (!old || before.get(name) === el.outerHTML) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    const taken = document.importNode(el, true);
    for (const open of $$("details[open][id]", old)) $$("details[id]", taken).filter((d) => d.id === open.id).forEach((d) => { d.open = true; });
    old.replaceWith(taken);
    showLocal(taken);
    if (focused) document.getElementById(focused)?.focus();
  }
  tick();
}
function watch(url) {
  const lost = $("#lost");
  const source = new EventSource(url);
  source.onopen = () => { lost.hidden = true; };
  source.onmessage = (event) => { lost.hidden = true; refresh(JSON.parse(event.data)); };
  source.onerror = () => { lost.hidden = false; };
  source.addEventListener("ended", () => {
    source.close();
    lost.textContent = "Not live: your session has ended. Load the page again to sign in.";
    lost.hidden = false;
  });
}

document.addEventListener("keydown", onKey);
document.addEventListener("change", onChange);
for (const link of $$("[data-keys]")) link.addEventListener("click", (event) => { event.preventDefault(); keys["?"](); });
for (const el of $$("[data-all]")) el.hidden = false;
countTicked();
showLocal(document);
if (location.hash === "#search") search();
tick();
setInterval(tick, 100);
if (document.body.dataset.live) watch(document.body.dataset.live);
