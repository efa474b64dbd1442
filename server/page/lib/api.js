// Requests to this server. The API key lives in this module's memory only.

let key = "";
const listeners = new Set();
let reachable = true;

/** An answer with an error; `code` is the server's, such as "formula_syntax". */
export class ServerError extends Error {
  constructor(message, { status = 0, code = "", param = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

/** The connection ended before the answer did. */
export class CutError extends Error {}

export const setKey = (value) => {
  key = value.trim();
};
export const hasKey = () => key !== "";

/** Call `listener(reachable)` when the server is lost or comes back; return how to stop that. */
export function onConnection(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function setReachable(value) {
  if (value === reachable) return;
  reachable = value;
  for (const listener of listeners) listener(value);
  if (!value) setTimeout(poll, 1000);
}

async function poll() {
  try {
    if ((await fetch("ready", { cache: "no-store" })).ok) return setReachable(true);
  } catch {
    // Still away; asked again below.
  }
  setTimeout(poll, 1000);
}

/** Send a request and return the response, whatever its status. */
export async function send(method, path, { body, json, headers = {}, signal } = {}) {
  const all = { ...headers };
  if (key) all.Authorization = `Bearer ${key}`;
  if (json !== undefined) all["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: all,
      signal,
      cache: "no-store",
      body: json === undefined ? body : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    setReachable(false);
    throw new ServerError("The server does not answer. It is asked again every second.");
  }
  setReachable(true);
  return response;
}

/** Send a request and return its JSON answer. Throw `ServerError` for any other. */
export async function call(method, path, options) {
  const response = await send(method, path, options);
  const text = await response.text();
  try {
    if (response.ok) return JSON.parse(text);
  } catch {
    // No JSON.
  }
  throw asError(text, response.status);
}

export const get = (path, options) => call("GET", path, options);
export const post = (path, json, options) => call("POST", path, { json, ...options });

export function asError(text, status) {
  let error;
  try {
    error = JSON.parse(text).error;
  } catch {
    // Not one of the server's own errors: a proxy's page, or an answer that was cut off.
  }
  const message = error?.message ?? `status ${status}: ${text.slice(0, 200) || "no text"}`;
  return new ServerError(message, { status, code: error?.code ?? "", param: error?.param ?? "" });
}

/** POST a request and yield the events of its stream. Throw `CutError` if it ends too early. */
export async function* stream(path, json, signal) {
  const response = await send("POST", path, { json: { ...json, stream: true }, signal });
  if (!response.ok) throw asError(await response.text(), response.status);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      setReachable(false);
      throw new CutError("The connection broke off during the answer.");
    });
    if (done) throw new CutError("The stream ended before the answer did.");
    const lines = (pending + value).split("\n");
    pending = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw asError(data, response.status);
      yield event;
    }
  }
}

/** PUT a body and report its progress from 0 to 1, which `fetch` cannot. */
export function upload(path, body, { headers, onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("PUT", path);
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onProgress(event.loaded / (event.total || 1));
    request.onload = () => {
      if (request.status < 300) resolve();
      else reject(asError(request.responseText, request.status));
    };
    request.onerror = () => reject(new CutError("The upload was cut off; nothing was published."));
    request.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}
