// index.html of a dump: search, filter, keys, and links that open what they lead to.
"use strict";
const finder = document.getElementById("finder");
const search = document.getElementById("search");
const fusion = document.getElementById("fusion");
const chips = [...finder.querySelectorAll(".chip")];
const entries = [...document.querySelectorAll(".entry")];
const texts = new Map();

function textOf(entry) {
  if (!texts.has(entry)) texts.set(entry, entry.textContent.toLowerCase());
  return texts.get(entry);
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = new Set(chips.filter((c) => c.ariaPressed === "true").map((c) => c.dataset.status));
  let shown = 0;
  for (const entry of entries) {
    const fits = wanted.has(entry.dataset.status)
      && (!fusion.value || entry.dataset.fusion === fusion.value)
      && words.every((word) => textOf(entry).includes(word));
    entry.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = `${shown} of ${entries.length}`;
  document.getElementById("nothing").hidden = shown > 0 || entries.length === 0;
}

function clear() {
  search.value = "";
  fusion.value = "";
  for (const chip of chips) chip.ariaPressed = "true";
  filter();
}

function visible() {
  return entries.filter((entry) => !entry.hidden).map((entry) => entry.querySelector("summary"));
}

function move(step) {
  const rows = visible();
  const inside = document.activeElement.closest(".entry");
  const at = rows.indexOf(inside && inside.querySelector("summary"));
  if (at + step < 0) search.focus();
  else rows[Math.min(at + step, rows.length - 1)]?.focus();
}

function escape() {
  const entry = document.activeElement.closest(".entry[open]");
  if (entry) {
    entry.open = false;
    entry.querySelector("summary").focus();
  } else {
    clear();
    search.blur();
  }
}

// Scrolls a block of code, and text in a field, by themselves.
const ownArrows = "pre, select";

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = document.activeElement.matches("input, select");
  if (event.key === "/" && !typing) search.focus();
  else if (event.key === "Escape") escape();
  else if (event.key === "ArrowDown" && !document.activeElement.matches(ownArrows)) move(1);
  else if (event.key === "ArrowUp" && !document.activeElement.matches(ownArrows)) move(-1);
  else return;
  event.preventDefault();
}

function follow() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.closest(".entry[hidden]")) clear();
  for (let one = target; one; one = one.parentElement) if (one.tagName === "DETAILS") one.open = true;
  target.scrollIntoView({ block: "start" });
  const into = target.querySelector("summary, a") || target;
  into.focus({ preventScroll: true });
}

finder.hidden = false;
document.getElementById("keys").hidden = false;
finder.addEventListener("submit", (event) => {
  event.preventDefault();
  move(1);
});
search.addEventListener("input", filter);
fusion.addEventListener("change", filter);
for (const chip of chips) {
  chip.addEventListener("click", () => {
    chip.ariaPressed = chip.ariaPressed === "true" ? "false" : "true";
    filter();
  });
}
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", follow);
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (link && link.hash === location.hash) follow(); // no hashchange comes
});
follow();
filter();
