// Keeps the page up to date, and says whether it is.
import { CHANGES, Follower } from "./follow.js";
import { Refresher } from "./refresh.js";
import { searchWhileTyping } from "./search.js";

const WORDS = {
  connecting: "Connecting …",
  live: "Live",
  paused: "Paused",
  lost: "Disconnected, trying again",
  refused: "Not live",
  out: "Signed out",
};
const QUIET = 10_000; // ms without a change after which the page is fetched all the same: heartbeats are no changes
const bar = document.getElementById("live");
const find = (name) => document.getElementById(`live-${name}`);
let state = "connecting";
let revision = ""; // of the latest change
let shownRevision = null; // the revision when what is shown was fetched
let updated = performance.now();
let connected = false; // whether changes are told

const follower = new Follower(hear);
const refresher = new Refresher(fetched);

function say(now, why = "") {
  state = now;
  const words = WORDS[now] + (why && `: ${why}`);
  if (find("words").textContent !== words) find("words").textContent = words;
  bar.dataset.state = now;
  find("pause").hidden = now === "out";
  find("pause").textContent = now === "paused" ? "Resume" : "Pause";
  find("sign-in").hidden = now !== "out";
  tick();
}

function tick() {
  const seconds = Math.round((performance.now() - updated) / 1000);
  const ago = seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
  find("ago").textContent = state === "connecting" ? "" : `updated ${ago} ago`;
  if (state === "live" && !document.hidden && performance.now() - updated >= QUIET) refresh();
}

function refresh() {
  shownRevision = revision;
  refresher.want();
}

/** Take what the stream tells. */
function hear(news) {
  if (state === "paused" || state === "out") return;
  connected = news.state === "live";
  if (!connected) {
    shownRevision = null;
    if (news.state === "refused") ask();
    else say("lost");
    return;
  }
  revision = news.revision;
  if (revision !== shownRevision) refresh();
  else say("live");
}

/** Find out why there is no stream. */
async function ask() {
  try {
    const headers = { Accept: "application/json", "X-Requested-With": "fetch" };
    const answer = await fetch(`${CHANGES}?once`, { headers, cache: "no-store" });
    if (state === "paused") return;
    if (answer.ok) follower.alone(); // this tab may have one; the worker does not know who is signed in
    else if (answer.status === 401) leave("out");
    else say("refused", (await answer.json()).error);
  } catch {
    say("lost");
  }
}

/** Take how fetching the page went. */
function fetched(outcome) {
  if (outcome === "out") {
    leave("out");
    return;
  }
  if (outcome === "shown") updated = performance.now();
  if (state === "paused") tick();
  else if (outcome === "lost") {
    say("lost");
    if (connected) refresh();
  } else if (connected) say("live");
}

function leave(now) {
  connected = false;
  follower.close();
  refresher.stop();
  say(now);
}

function resume() {
  shownRevision = null;
  follower.open();
}

find("pause").addEventListener("click", () => {
  if (state === "paused") {
    say("connecting");
    resume();
  } else leave("paused");
});

/** A page that nobody sees costs nothing; when it is seen again it catches up. */
function look() {
  if (state === "paused" || state === "out") return;
  if (document.hidden) {
    follower.close();
    refresher.stop();
  } else resume();
}

searchWhileTyping(() => refresher.now());
document.addEventListener("visibilitychange", look);
addEventListener("pagehide", () => follower.close());
addEventListener("pageshow", ({ persisted }) => persisted && look());
setInterval(tick, 1000);
bar.hidden = false;
document.getElementById("live-off").parentElement.hidden = false;
say("connecting");
look();
