// Follows the changes on behalf of all tabs of a browser: it lends a page six connections to a server, and no more to all of them.
import { Stream } from "./stream.js";

const tabs = new Set(); // those that want to know
let latest = null;

const stream = new Stream(new URL("/registry/v1/changes", location.origin), (news) => {
  latest = news;
  for (const tab of tabs) tab.postMessage(news);
});

function follow(tab) {
  tabs.add(tab);
  stream.open();
  if (latest) tab.postMessage(latest);
}

function leave(tab) {
  tabs.delete(tab);
  if (tabs.size) return;
  stream.close();
  latest = null;
}

addEventListener("connect", ({ ports: [tab] }) => {
  tab.onmessage = ({ data }) => (data === "follow" ? follow(tab) : leave(tab));
});
