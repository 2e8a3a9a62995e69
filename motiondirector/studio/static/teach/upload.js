// Uploads a file in parts, so that neither browser nor server holds it in memory, and a restarted server costs one part.
import { api, CSRF, refusedBy, Refused, ROOT } from "../studio.js";

const PART = 8 * 2 ** 20; // bytes
const MOST_PARTS = 900;
const WEEK = 7 * 86400; // seconds for which a clip is kept
const PAUSES = [1, 2, 4, 8, 15, 30]; // seconds before a part is sent again
const AGAIN = new Set([0, 408, 429, 502, 503, 504]); // answers after which it may arrive; 0: none

/** Upload a file; returns it as the API shows it. `told` gets the share that has arrived. Throws Refused, or AbortError. */
export async function upload(file, told, signal) {
  if (!file.size) throw new Refused("The file is empty; choose a video.", 400);
  const body = {
    filename: file.name.slice(-200) || "clip", purpose: "fine-tune", bytes: file.size, mime_type: file.type || "application/octet-stream",
    expires_after: { anchor: "created_at", seconds: WEEK },
  };
  const begun = await api("/v1/uploads", { method: "POST", body, signal });
  const size = Math.max(PART, Math.ceil(file.size / MOST_PARTS));
  const ids = [];
  for (let start = 0; start < file.size; start += size) {
    const piece = file.slice(start, start + size);
    const sent = (share) => told((start + share * piece.size) / file.size);
    ids.push((await repeated(() => send(begun.id, ids.length, piece, sent, signal), signal)).id);
  }
  const done = await repeated(() => api(`/v1/uploads/${begun.id}/complete`, { method: "POST", body: { part_ids: ids }, signal }), signal);
  return done.file;
}

/** A call, again after a pause if the server was away or busy. */
async function repeated(call, signal) {
  for (const pause of [...PAUSES, null]) {
    try {
      return await call();
    } catch (error) {
      if (pause === null || !(error instanceof Refused) || !AGAIN.has(error.status)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * pause));
      signal?.throwIfAborted();
    }
  }
  throw new Error("not reached");
}

/** One part, with its progress, which `fetch` does not tell. */
function send(id, number, piece, told, signal) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append("number", number);
    form.append("data", piece, "part");
    const request = new XMLHttpRequest();
    request.open("POST", `${ROOT}/api/v1/uploads/${id}/parts`);
    if (CSRF) request.setRequestHeader("X-CSRF-Token", CSRF);
    request.upload.addEventListener("progress", ({ loaded, total }) => told(total ? Math.min(1, loaded / total) : 0));
    request.addEventListener("load", () => {
      if (request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(refusedBy(request.status, request.responseText));
    });
    request.addEventListener("error", () => reject(new Refused("The server does not answer. Is it running? Try again in a moment.", 0)));
    request.addEventListener("abort", () => reject(new DOMException("given up", "AbortError")));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}
