// A turn's Server-Sent Events. The browser's own EventSource cannot send an Authorization header, so they are read from
// a fetch; a lost connection is opened again, after growing delays, with the number of the last event that was seen.

import { api } from "/assets/api.js";
import { ApiError } from "/assets/errors.js";

const DELAYS = [300, 1000, 2000, 4000, 8000, 15000];
// The server sends a heartbeat every 15 s: this long without a byte, the connection is dead though nobody said so.
const SILENCE = 40000;

/**
 * Follows a turn from the event after number `after` until it ends, or `signal` aborts.
 * `handle(name, data, number)` gets each event once, in order; `connection(state)` gets "open", or "lost" with the delay in ms.
 */
export async function follow(id, turn, after, { handle, connection, signal }) {
  let last = after;
  for (let attempt = 0; !signal.aborted; attempt += 1) {
    let told = 0;
    try {
      const over = await read(id, turn, last, signal, {
        opened: () => connection("open"),
        event(event) {
          attempt = 0;
          if (event.id !== null && event.id <= last) return false;
          last = event.id ?? last;
          handle(event.name, event.data, last);
          return event.name === "done" || event.name === "error";
        },
      });
      if (over) return;
    } catch (error) {
      // Only what time can heal is worth trying again.
      if (error instanceof ApiError && !error.passing) throw error;
      told = (error.retryAfter ?? 0) * 1000;
    }
    if (!signal.aborted) await pause(Math.max(told, delay(attempt)), signal, connection);
  }
}

/** Reads one connection; true when the turn is over. */
async function read(id, turn, last, signal, { opened, event }) {
  const connection = new AbortController();
  const end = () => connection.abort();
  signal.addEventListener("abort", end);
  let silence = setTimeout(end, SILENCE);
  try {
    const response = await api.events(id, turn, last, connection.signal);
    opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parse = parser();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return false;
      clearTimeout(silence);
      silence = setTimeout(end, SILENCE);
      for (const next of parse(value)) if (event(next)) return true;
    }
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", end);
    connection.abort();
  }
}

/** A function that takes text as it arrives and gives the events that it completes. */
export function parser() {
  let buffer = "";
  let event = { id: null, name: "message", data: [] };
  return (text) => {
    buffer += text;
    const events = [];
    for (;;) {
      const line = buffer.match(/^(.*?)(\r\n|\n|\r(?=[^]))/);
      if (!line) return events;
      buffer = buffer.slice(line[0].length);
      if (line[1] === "") {
        if (event.data.length > 0) events.push(decoded(event));
        event = { id: null, name: "message", data: [] };
        continue;
      }
      const [, field, value] = line[1].match(/^([^:]*):? ?(.*)$/);
      if (field === "event") event.name = value;
      if (field === "id" && /^\d+$/.test(value)) event.id = Number(value);
      if (field === "data") event.data.push(value);
    }
  };
}

function decoded({ id, name, data }) {
  return { id, name, data: JSON.parse(data.join("\n")) };
}

/** Some spread, so that the pages of a restarted gateway do not all come back at once. */
function delay(attempt) {
  return DELAYS[Math.min(attempt, DELAYS.length - 1)] * (0.8 + 0.4 * Math.random());
}

/** Waits, but not longer than until the network is back or the page is looked at again. */
function pause(milliseconds, signal, connection) {
  connection("lost", milliseconds);
  return new Promise((done) => {
    const wakers = [
      [window, "online"],
      [document, "visibilitychange"],
      [signal, "abort"],
    ];
    const end = () => {
      clearTimeout(timer);
      for (const [target, name] of wakers) target.removeEventListener(name, wake);
      done();
    };
    const wake = () => (document.visibilityState === "visible" || signal.aborted) && end();
    const timer = setTimeout(end, milliseconds);
    for (const [target, name] of wakers) target.addEventListener(name, wake);
  });
}
