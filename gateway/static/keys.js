// The keyboard: / searches, j and k and the arrows go from row to row, Esc leaves, ? shows what there is.

const help = document.getElementById("keys");
const button = document.getElementById("keys-button");
const box = () => document.getElementById("q");
const search = () => {
  box()?.focus();
  box()?.select();
};
const rows = () => [...document.querySelectorAll("main a.open")];

/** Go so many rows down; the first step leads to the first row. */
function step(count) {
  const all = rows();
  const here = all.indexOf(document.activeElement);
  const there = here < 0 ? 0 : here + count;
  if (there < 0) box()?.focus();
  else all[Math.min(there, all.length - 1)]?.focus();
}

/** What was searched and chosen on a page is found again by whoever comes back to it in this tab. */
const kept = (path) => `luna:${path}`;
addEventListener("pagehide", () => {
  try {
    sessionStorage.setItem(kept(location.pathname), location.search);
  } catch {
    // Browsers may be told to keep nothing.
  }
});

/** Leave what one is in, or the page for the one above it. */
function leave() {
  const { activeElement } = document;
  const open = activeElement?.closest("details[open]");
  if (open) {
    open.open = false;
    open.querySelector("summary").focus();
    return;
  }
  const above = document.querySelector('nav[aria-label="Breadcrumb"] a:last-of-type');
  if (activeElement === box()) activeElement.blur();
  else if (above) {
    try {
      above.search = sessionStorage.getItem(kept(above.pathname)) ?? above.search;
    } catch {
      // See above.
    }
    above.click();
  }
}

const IS_FIELD = "input, textarea, select, [contenteditable]";
const ANYWHERE = {
  "/": search,
  j: () => step(1),
  k: () => step(-1),
  "?": () => help.showModal(),
  Escape: leave,
};
const IN_ROWS = { ArrowDown: () => step(1), ArrowUp: () => step(-1) };
const IN_BOX = { ArrowDown: () => step(1), Escape: leave };

function keysOf(active) {
  if (active === box()) return IN_BOX;
  if (active.matches(IS_FIELD)) return {};
  return active.matches("a.open") ? { ...ANYWHERE, ...IN_ROWS } : ANYWHERE;
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || event.isComposing || help.open) return;
  const action = keysOf(document.activeElement ?? document.body)[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
button.hidden = false;
button.addEventListener("click", () => help.showModal());
