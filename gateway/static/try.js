// Makes the forms of the page to try the API work: sends what is in them, and shows the answer. Everything is shown as text.
"use strict";

const MOST = 200_000; // characters of an answer that are shown

/** Quote a word for a shell, as the server does with the example. */
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
}

/** Write a text as one segment of a path, or one value of a query. */
function encoded(text) {
  return encodeURIComponent(text).replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** Return what a form asks for: its method, address, headers and body. */
function requestOf(form) {
  let path = form.dataset.path;
  const query = [];
  for (const input of form.querySelectorAll("[data-in]")) {
    const value = encoded(input.value);
    if (input.dataset.in === "path") path = path.replace(`{${input.name}}`, () => value);
    else if (value) query.push(`${input.name}=${value}`);
  }
  const headers = {};
  if (form.elements.accept) headers.Accept = form.elements.accept.value;
  const body = form.elements.body ? form.elements.body.value : "";
  if (body) headers["Content-Type"] = "application/json";
  // Not relative to this page: its own address may hold a name and a password, and no request may.
  const url = location.origin + path + (query.length ? `?${query.join("&")}` : "");
  return { url, method: form.dataset.method, headers, body };
}

/** Return how curl sends a request. */
function commandOf({ url, method, headers, body }, user) {
  const words = ["curl", "-i"];
  if (user !== undefined) words.push("-u", `${user}:`);
  if (method !== "GET") words.push("-X", method);
  if (headers.Accept) words.push("-H", `Accept: ${headers.Accept}`);
  words.push(url);
  if (body) words.push("--data-raw", body);
  return words.map(quoted).join(" ");
}

/** Return the body of an answer as it is shown: JSON with line breaks, and not without end. */
function shown(text, type) {
  let whole = text;
  if (type.includes("json")) {
    try {
      whole = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // As it came, then.
    }
  }
  const rest = whole.length - MOST;
  return rest > 0 ? `${whole.slice(0, MOST)}\n… and ${rest} characters more; the command shows all of them.` : whole;
}

function makeWork(form) {
  const find = (selector) => form.querySelector(selector);
  const command = find(".command code");
  const status = find(".answer .status");
  const received = find(".received");
  let sent = 0;

  function update() {
    try {
      command.textContent = commandOf(requestOf(form), form.dataset.user);
    } catch {
      command.textContent = ""; // half a character; see send
    }
    find(".copied").textContent = "";
  }

  async function send(event) {
    event.preventDefault();
    sent += 1;
    const turn = sent;
    status.textContent = "Sending …";
    received.hidden = true;
    try {
      const { url, method, headers, body } = requestOf(form);
      const response = await fetch(url, { method, headers, body: body || undefined, cache: "no-store" });
      const text = await response.text();
      if (turn !== sent) return; // another one was sent meanwhile
      const moved = response.redirected ? ` (from ${response.url})` : "";
      status.textContent = `${response.status} ${response.statusText}${moved}`;
      status.classList.toggle("bad", !response.ok);
      find(".received .headers").textContent = [...response.headers].map((header) => header.join(": ")).join("\n");
      find(".received .body").textContent = shown(text, response.headers.get("Content-Type") ?? "") || "(nothing)";
      received.hidden = false;
    } catch (error) {
      if (turn !== sent) return;
      status.textContent = `No answer (${error.message}). Is Luna still running?`;
      status.classList.add("bad");
    }
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(command.textContent);
      find(".copied").textContent = "Copied";
    } catch {
      // Browsers lend the clipboard to https and to localhost only, and ask first.
      getSelection().selectAllChildren(command);
      find(".copied").textContent = "Selected; copy it with Ctrl+C";
    }
  }

  for (const input of form.querySelectorAll("[readonly]")) input.readOnly = false;
  for (const hidden of form.querySelectorAll(".field[hidden], .buttons[hidden]")) hidden.hidden = false;
  form.addEventListener("input", update);
  form.addEventListener("submit", send);
  find(".copy").addEventListener("click", copy);
}

for (const form of document.querySelectorAll("form[data-method]")) makeWork(form);
