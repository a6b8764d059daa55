// The gateway's HTTP API. One function an operation; errors are ApiError. A request that got no answer is repeated: all of
// them may be, because the two POSTs carry an Idempotency-Key.

import { ApiError } from "/assets/errors.js";

const KEY = "radialog.key";
// For a server that is being restarted; longer outages are told to the user.
const REPEAT_DELAYS = [400, 1200, 3000];

let askForKey = async () => null;
let asking = null;

/** Sets what asks the user for an API key: it gets whether a key was refused, and gives a key or null. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** A name for a request, so that repeating it does nothing twice. `randomUUID` exists only on secure origins. */
export function newRequestKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const api = {
  list: () => json("GET", "/v1/conversations"),
  models: () => json("GET", "/v1/models"),
  conversation: (id, signal) => json("GET", path(id), { signal }),
  image: async (id) => (await request("GET", `${path(id)}/image`)).blob(),
  begin({ image, name, title, question, indication, model }, requestKey) {
    const body = new FormData();
    if (image) body.append("image", image, name || "image");
    if (title) body.append("title", title);
    if (question) body.append("question", question);
    if (indication) body.append("indication", indication);
    if (model) body.append("model", model);
    return json("POST", "/v1/conversations", { body, headers: { "Idempotency-Key": requestKey } });
  },
  remove: (id) => request("DELETE", path(id)),
  /** Gives it a title in the place of that with this tag; the new one's tag. */
  rename: (id, title, seen) => tagOf(request("PUT", `${path(id)}/title`, asJson({ title }, seen))),
  /** Asks; `again()` is called when there was no answer, before it is tried again. */
  ask: (id, ask, requestKey, again) =>
    json("POST", `${path(id)}/turns`, { ...asJson(ask), headers: { "Content-Type": "application/json", "Idempotency-Key": requestKey }, again }),
  cancel: (id, turn) => request("DELETE", `${path(id)}/turns/${turn}`),
  /** Keeps a person's version in the place of that with this tag; the new one's tag. */
  edit: (id, turn, text, seen) => tagOf(request("PUT", `${path(id)}/turns/${turn}/edit`, asJson({ text }, seen))),
  forgetEdit: (id, turn, seen) => tagOf(request("DELETE", `${path(id)}/turns/${turn}/edit`, { headers: { "If-Match": seen } })),
  rate: (id, turn, rating) => request("PUT", `${path(id)}/turns/${turn}/rating`, asJson({ rating })),
  forgetRating: (id, turn) => request("DELETE", `${path(id)}/turns/${turn}/rating`),
  /** The open response of a turn's event stream. */
  events: (id, turn, after, signal) =>
    request("GET", `${path(id)}/turns/${turn}/events`, {
      headers: { Accept: "text/event-stream", ...(after ? { "Last-Event-ID": String(after) } : {}) },
      signal,
      repeat: false,
    }),
};

function path(id) {
  return `/v1/conversations/${encodeURIComponent(id)}`;
}

function asJson(value, seen) {
  const expected = seen ? { "If-Match": seen } : {};
  return { body: JSON.stringify(value), headers: { "Content-Type": "application/json", ...expected } };
}

async function tagOf(asked) {
  // A proxy that compresses makes a weak one of it.
  return (await asked).headers.get("ETag")?.replace(/^W\//, "") ?? null;
}

async function json(method, address, options) {
  const response = await request(method, address, options);
  return response.json();
}

async function request(method, address, { repeat = true, again = () => {}, ...options } = {}) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await authorized(method, address, options);
    } catch (error) {
      const repeated = repeat && error instanceof ApiError && error.status === 0 && attempt < REPEAT_DELAYS.length;
      if (!repeated) throw error;
      again();
      await new Promise((done) => setTimeout(done, REPEAT_DELAYS[attempt]));
    }
  }
}

/** Sends with the key, and asks for one where the server wants it. */
async function authorized(method, address, options) {
  for (;;) {
    const key = storedKey();
    try {
      return await once(method, address, options, key);
    } catch (error) {
      if (error.status !== 401) throw error;
      // Another request may have asked meanwhile.
      if (storedKey() !== key) continue;
      asking ??= askForKey(key !== null).finally(() => (asking = null));
      const entered = await asking;
      if (!entered) throw error;
      storeKey(entered);
    }
  }
}

async function once(method, address, { body, headers = {}, signal } = {}, key) {
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(address, { method, body, signal, headers: { ...headers, ...authorization }, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({});
  }
  if (response.ok) return response;
  throw await problem(response);
}

async function problem(response) {
  const retryAfter = Number.parseInt(response.headers.get("Retry-After") ?? "", 10) || null;
  let told = {};
  try {
    told = await response.json();
  } catch {
    // A proxy's page: the status has to do.
  }
  return new ApiError({ status: response.status, code: told.code, title: told.title, detail: told.detail, retryAfter });
}

// In memory as well, for browsers without storage.
let remembered = null;

function storedKey() {
  try {
    return sessionStorage.getItem(KEY) ?? remembered;
  } catch {
    return remembered;
  }
}

function storeKey(key) {
  remembered = key;
  try {
    sessionStorage.setItem(KEY, key);
  } catch {
    // It lasts until the page is closed.
  }
}
