// The server's HTTP side: getJson(path) and chat(body, {signal, onChunk}). Whatever goes wrong is an ApiError whose
// `kind` says what a person can do about it: key, busy, starting, offline, broken (mid-answer), long, refused.

import { SseParser } from "./sse.js";

const KEY = "pynanochat.key";
const SILENCE_MS = 120_000; // an answer that stands still for so long is given up

export class ApiError extends Error {
  constructor(kind, message, { status = 0, retryAfter = 0, code = null } = {}) {
    super(message);
    this.kind = kind;
    this.status = status;
    this.retryAfter = retryAfter;
    this.code = code;
  }
}

export const apiKey = {
  get: () => read(sessionStorage) || read(localStorage) || "",
  // Kept for this tab, or for this browser where `remember` is true.
  set(value, remember) {
    for (const storage of [sessionStorage, localStorage]) write(storage, "");
    if (value) write(remember ? localStorage : sessionStorage, value);
  },
};

function read(storage) {
  try {
    return storage.getItem(KEY);
  } catch {
    return null;
  }
}

function write(storage, value) {
  try {
    if (value) storage.setItem(KEY, value);
    else storage.removeItem(KEY);
  } catch {
    // a browser that keeps nothing asks for the key again
  }
}

export async function getJson(path, signal) {
  const response = await request(path, { signal });
  try {
    return await response.json();
  } catch {
    throw new ApiError("refused", `${path} did not answer with JSON`);
  }
}

// Post a streamed chat request; `onChunk(chunk)` for each one. Resolves at [DONE]; an abort rejects with AbortError.
export async function chat(body, { signal, onChunk }) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  const text = JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } });
  const response = await request("v1/chat/completions", { method: "POST", headers, body: text, signal });
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const parser = new SseParser();
  try {
    for (;;) {
      const { value, done } = await withinSilence(reader.read());
      for (const data of parser.feed(done ? decoder.decode() : decoder.decode(value, { stream: true }))) {
        if (data === "[DONE]") return;
        onChunk(readChunk(data));
      }
      if (done) throw new ApiError("broken", "The connection ended before the answer did.");
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(
      "broken",
      navigator.onLine ? "The connection broke before the answer ended." : "You went offline.",
    );
  } finally {
    reader.cancel().catch(() => {});
  }
}

function readChunk(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError("broken", "The server sent something that is not an answer.");
  }
  if (chunk?.error)
    throw new ApiError("broken", String(chunk.error.message ?? "The engine stopped."), { code: chunk.error.code });
  return chunk;
}

function withinSilence(promise) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new ApiError("broken", "The answer stood still for two minutes.")), SILENCE_MS);
  });
  return Promise.race([promise, silence]).finally(() => clearTimeout(timer));
}

async function request(path, options) {
  const key = apiKey.get();
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("offline", navigator.onLine ? "The server cannot be reached." : "You are offline.");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // a proxy's page, or nothing
  }
  const { status } = response;
  const kinds = { 401: "key", 403: "key", 408: "busy", 429: "busy", 502: "starting", 503: "starting", 504: "starting" };
  const kind =
    error.code === "context_length_exceeded" ? "long" : (kinds[status] ?? (status >= 500 ? "broken" : "refused"));
  const retryAfter = Math.min(120, Math.max(0, Number(response.headers.get("Retry-After")) || 0));
  return new ApiError(kind, String(error.message ?? `The server answered with status ${status}.`), {
    status,
    retryAfter,
    code: error.code,
  });
}
