// What every page does: requests with the session's token, messages, videos that are being made, players.
import { startPlayers } from "./player.js";
import { watchVideos } from "./watch.js";

export const ROOT = document.documentElement.dataset.root;
export const CSRF = document.documentElement.dataset.csrf;

/** A refusal of the API, with its sentence. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Ask the API: the parsed answer, or the raw one if `raw`. Throws Refused. */
export async function api(path, { method = "GET", body, headers = {}, raw = false, signal } = {}) {
  const sent = { method, signal, headers: { ...headers } };
  if (CSRF) sent.headers["X-CSRF-Token"] = CSRF;
  if (body !== undefined) {
    sent.body = JSON.stringify(body);
    sent.headers["Content-Type"] = "application/json";
  }
  let answer;
  try {
    answer = await fetch(`${ROOT}/api${path}`, sent);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it running? Try again in a moment.", 0);
  }
  if (answer.ok) return raw ? answer : answer.json();
  throw refusedBy(answer.status, await answer.text());
}

/** The refusal of an answer; one for lack of a session also shows the way to the sign-in. */
export function refusedBy(status, text) {
  let message = `The server answered ${status}.`;
  try {
    message = JSON.parse(text).error.message;
  } catch { /* a proxy's answer in plain text */ }
  if (status === 401) askToSignIn();
  return new Refused(message.charAt(0).toUpperCase() + message.slice(1), status);
}

function askToSignIn() {
  const dialog = document.getElementById("session-ended");
  const back = location.pathname + location.search;
  dialog.querySelector("[data-sign-in]").href = `${ROOT}/sign-in?ended=1&next=${encodeURIComponent(back)}`;
  if (!dialog.open) dialog.showModal();
}

/** Show a message that goes away by itself. */
export function say(message) {
  const toast = document.createElement("div");
  toast.className = "toast";
  const text = document.createElement("span");
  text.textContent = message;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "✕";
  close.setAttribute("aria-label", "Close this message");
  close.addEventListener("click", () => toast.remove());
  toast.append(text, close);
  document.getElementById("toasts").append(toast);
  setTimeout(() => toast.remove(), 9000);
}

/** Load a part of a page into an element. */
export function part(address, target, swap = "outerHTML") {
  return window.htmx.ajax("GET", `${ROOT}/parts/${address}`, { target, swap });
}

/** A new random seed. */
export const drawSeed = () => Math.floor(Math.random() * 1e6);

/** Run what a press asks for; its refusal becomes a message. The button is disabled meanwhile. */
export async function act(button, action) {
  button.disabled = true;
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status !== 401) say(error.message);
  } finally {
    button.disabled = false;
  }
}

async function tryMotion(button) {
  const prompt = document.getElementById("prompt").value.trim();
  if (!prompt) {
    document.getElementById("prompt").reportValidity();
    return;
  }
  const body = { model: `foundation:${button.dataset.tryMotion}`, prompt, seed: drawSeed() };
  const video = await api("/v1/videos", { method: "POST", body });
  location.href = `${ROOT}/videos/${video.id}?beside=true`;
}

async function makeBase(place) {
  const video = await api(`/videos/${place.dataset.baseOf}/base`, { method: "POST" });
  await part(`videos/${video.id}?look=stage`, place, "innerHTML");
}

async function copy(button) {
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  const before = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = before; }, 1500);
}

const PRESSED = {
  "[data-prompt]": (button) => { button.form.elements.prompt.value = button.dataset.prompt; },
  "[data-try-motion]": (button) => act(button, () => tryMotion(button)),
  "[data-make-base]": (button) => act(button, () => makeBase(button.closest("[data-base-of]"))),
  "[data-cancel]": (button) => act(button, async () => {
    const take = button.closest("[data-video]");
    await api(`/v1/videos/${take.dataset.video}/cancel`, { method: "POST" });
    if (take.dataset.status === "cancelled") return; // its event was faster
    take.dataset.status = "cancelled";
    await part(`videos/${take.dataset.video}?look=${take.dataset.look}`, take);
  }),
  "[data-cancel-training]": (button) => act(button, async () => {
    if (!window.confirm("Cancel this training? What it has learned so far is lost.")) return;
    await api(`/v1/fine_tuning/jobs/${button.dataset.cancelTraining}/cancel`, { method: "POST" });
    await part(`trainings/${button.dataset.cancelTraining}`, document.getElementById("training"));
  }),
  "[data-delete-motion]": (button) => act(button, async () => {
    if (!window.confirm("Delete this motion with all its versions? This cannot be undone.")) return;
    await api(`/v1/models/${encodeURIComponent(button.dataset.deleteMotion)}`, { method: "DELETE" });
    button.closest(".motion").remove();
    say("Deleted. Videos that were asked for with it are still made.");
  }),
  "[data-delete]": (button) => act(button, async () => {
    if (!window.confirm("Delete this video? This cannot be undone.")) return;
    await api(`/v1/videos/${button.dataset.delete}`, { method: "DELETE" });
    location.href = `${ROOT}/videos`;
  }),
  "[data-copy]": (button) => copy(button).catch(() => say("The browser does not allow copying here. Select the text and copy it.")),
};

document.addEventListener("click", (event) => {
  for (const [selector, action] of Object.entries(PRESSED)) {
    const button = event.target.closest(selector);
    if (button) {
      action(button);
      return;
    }
  }
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.matches("[data-try]")) {
    event.preventDefault();
    document.getElementById("motions-title").scrollIntoView();
    say("Now pick a motion.");
  } else if (form.matches("[data-share]")) {
    event.preventDefault();
    act(form.querySelector("button"), async () => {
      const names = form.elements.tenants.value.split(/[\s,]+/).filter(Boolean);
      const body = { tenants: names.filter((name) => name !== "*"), all: names.includes("*") };
      const shared = await api(`/v1/models/${encodeURIComponent(form.dataset.share)}/share`, { method: "POST", body });
      say(shared.all ? "Everybody may use it now." : shared.tenants.length ? `These may use it now: ${shared.tenants.join(", ")}.` : "Nobody else may use it now.");
    });
  } else if (form.matches("[data-remix]")) {
    event.preventDefault();
    act(form.querySelector("button"), async () => {
      const body = { prompt: form.elements.prompt.value };
      const video = await api(`/v1/videos/${form.dataset.remix}/remix`, { method: "POST", body });
      location.href = `${ROOT}/videos/${video.id}?beside=true`;
    });
  } else if (form.id === "chosen" && !form.querySelector(":checked")) {
    event.preventDefault();
    say("Choose at least one video with the box in its corner.");
  }
});

document.addEventListener("change", (event) => {
  const select = event.target.closest("[data-versions]");
  if (!select) return;
  const card = select.closest(".motion");
  const ref = `${select.dataset.versions}@${select.value}`;
  card.querySelector("[data-try-motion]").dataset.tryMotion = ref;
  card.querySelector("a[href*='/make']").href = `${ROOT}/make?motion=${ref}`;
  const video = card.querySelector("video");
  if (video) video.src = `${ROOT}/api/v1/models/foundation:${ref}/preview`;
});

const polled = (event) => event.detail.elt.matches("[data-polled]"); // it asks again by itself, so a failure is shown once
document.addEventListener("htmx:beforeOnLoad", (event) => { // what is on the page, perhaps half an upload, stays until its reader leaves it
  if (!polled(event) || event.detail.xhr.status !== 401) return;
  event.preventDefault();
  askToSignIn();
});
document.addEventListener("htmx:responseError", (event) => {
  if (polled(event) && event.detail.xhr.status >= 500) document.getElementById("away").hidden = false;
  else say(event.detail.xhr.status === 401 ? "Your session has ended." : "This part could not be loaded. Reload the page to try again.");
});
document.addEventListener("htmx:sendError", (event) => {
  if (polled(event)) document.getElementById("away").hidden = false;
  else say("The server does not answer. Reload the page to try again.");
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.successful) document.getElementById("away").hidden = true;
});

/** Start what new content needs. */
function begin() {
  startPlayers(api);
  watchVideos(ROOT, (take) => part(`videos/${take.dataset.video}?look=${take.dataset.look}`, take));
  document.querySelectorAll("[data-base-of][data-at-once]").forEach((place) => {
    delete place.dataset.atOnce;
    const button = place.querySelector("[data-make-base]");
    act(button, () => makeBase(place));
  });
}
document.addEventListener("htmx:load", begin);
begin();
