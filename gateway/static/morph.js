// Puts a fresh copy of this page in the place of what is shown, so that whoever reads or types notices only what has changed.
import { Idiomorph } from "./idiomorph.esm.js";

/** Whether somebody has typed or chosen something that the server does not know. */
function isTouched(field) {
  if (field instanceof HTMLSelectElement) {
    const given = [...field.options].findIndex((option) => option.defaultSelected);
    return field.selectedIndex !== Math.max(given, 0);
  }
  if (field instanceof HTMLTextAreaElement) return field.value !== field.defaultValue;
  return field instanceof HTMLInputElement && (field.value !== field.defaultValue || field.checked !== field.defaultChecked);
}

/** Whether a text is marked, to be copied perhaps. */
function isMarked(node) {
  const selection = getSelection();
  return node.nodeType === Node.TEXT_NODE && !selection.isCollapsed && selection.containsNode(node, true);
}

const CALLBACKS = {
  beforeNodeMorphed: (node) => !isTouched(node) && !isMarked(node),
  // What is open stays open, and what is closed stays closed.
  beforeAttributeUpdated: (name, node) => !(name === "open" && node instanceof HTMLDetailsElement),
};

/** Return how to find what has the focus, should it lose it by being moved. */
function focused(main) {
  const active = document.activeElement;
  const place = main.contains(active) && active.closest("[id]");
  if (!place || place === main) return () => {};
  const among = [...place.querySelectorAll(active.localName)].indexOf(active);
  return () => {
    if (document.activeElement === active) return;
    const now = document.getElementById(place.id);
    const again = among < 0 ? now : now?.querySelectorAll(active.localName)[among];
    again?.focus({ preventScroll: true });
  };
}

/** Return how to mark again what is marked, should that be lost by being moved. */
function marked() {
  const selection = getSelection();
  const { anchorNode, anchorOffset, focusNode, focusOffset, isCollapsed } = selection;
  return () => {
    if (isCollapsed || !selection.isCollapsed || !anchorNode.isConnected || !focusNode.isConnected) return;
    selection.setBaseAndExtent(anchorNode, anchorOffset, focusNode, focusOffset);
  };
}

function copy(selector, fresh, attributes) {
  const [old, now] = [document.querySelector(selector), fresh.querySelector(selector)];
  if (!old || !now) return;
  for (const name of attributes) if (old.getAttribute(name) !== now.getAttribute(name)) old.setAttribute(name, now.getAttribute(name));
  if (old.textContent !== now.textContent) old.textContent = now.textContent;
}

/** Show a page that the server has made. */
export function show(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const [main, now] = [document.querySelector("main"), fresh.querySelector("main")];
  if (!now) return;
  const [refocus, remark] = [focused(main), marked()];
  Idiomorph.morph(main, now, { morphStyle: "outerHTML", callbacks: CALLBACKS });
  refocus();
  remark();
  if (document.title !== fresh.title) document.title = fresh.title;
  copy("link[rel=icon]", fresh, ["href"]);
  copy("#live-off", fresh, ["href"]);
  copy("#made", fresh, ["datetime"]);
}
