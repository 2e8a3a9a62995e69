// The form of the page Teach: clips, words, how long; one press starts the training.
import { act, api, CSRF, part, refusedBy, Refused, ROOT, say } from "../studio.js";
import { Clip } from "./clip.js";

const form = document.getElementById("teach");
const list = document.getElementById("clips");
const chooser = document.getElementById("files");
const drop = document.getElementById("drop");
const refusal = document.getElementById("refusal");
const fields = form.elements;
const DRAFT = "motion-studio-teach";
const DAY = 86400; // seconds for which the list of a training's clips is kept
let clips = [];

const nameOf = (file) => file.name.replace(/\.[^.]*$/, "").toLowerCase().replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, "")
  .replace(/\.{2,}/g, ".").slice(0, 40);

function add(given) {
  if (clips.length >= Number(form.dataset.most)) {
    say(`A training takes at most ${form.dataset.most} files here. Pack more into a zip.`);
    return;
  }
  const clip = new Clip(given, changed);
  clips.push(clip);
  list.append(clip.card);
  if (!fields.name.value) fields.name.value = nameOf(given);
}

function changed(removed) {
  clips = clips.filter((clip) => clip !== removed);
  const address = new URL(location.href);
  address.search = "";
  for (const clip of clips) if (clip.id) address.searchParams.append("file", clip.id);
  history.replaceState(null, "", address); // leaving and coming back shows the same clips
  const number = clips.reduce((sum, clip) => sum + (clip.seen?.clips ?? 0), 0) || 1;
  const shown = Number(form.querySelector("[data-for]")?.dataset.for ?? number);
  if ((number > 1) !== (shown > 1)) part(`teach/presets?clips=${number}&chosen=${fields.preset?.value ?? ""}`, document.getElementById("presets"), "innerHTML");
}

function keepDraft(draft = { caption: fields.caption.value, name: fields.name.value }) {
  try {
    sessionStorage.setItem(DRAFT, JSON.stringify(draft));
  } catch { /* a browser that keeps nothing */ }
}

function readDraft() {
  try {
    const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "{}");
    for (const name of ["caption", "name"]) if (!fields[name].value) fields[name].value = draft[name] ?? "";
  } catch { /* nothing was kept */ }
}

/** The file that a training names: the clip itself, or a list of clips. */
async function trainingFile() {
  const rows = clips.map((clip) => ({
    file_id: clip.id, ...(clip.caption && { caption: clip.caption }), ...(clip.start && { start: clip.start }),
  }));
  if (rows.length === 1 && Object.keys(rows[0]).length === 1) return rows[0].file_id;
  const sent = new FormData();
  sent.append("purpose", "fine-tune");
  sent.append("expires_after[anchor]", "created_at");
  sent.append("expires_after[seconds]", DAY);
  sent.append("file", new Blob([rows.map((row) => `${JSON.stringify(row)}\n`).join("")]), "clips.jsonl");
  const answer = await fetch(`${ROOT}/api/v1/files`, { method: "POST", body: sent, headers: CSRF ? { "X-CSRF-Token": CSRF } : {} });
  const text = await answer.text();
  if (!answer.ok) throw refusedBy(answer.status, text);
  return JSON.parse(text).id;
}

async function train() {
  refusal.hidden = true;
  if (!clips.length) throw new Refused("Choose at least one clip of the motion.", 400);
  await Promise.all(clips.map((clip) => clip.ready)); // a press may come before the last clip has arrived
  const wrong = clips.find((clip) => !clip.usable);
  if (wrong) throw new Refused(`${wrong.name} cannot be used: remove it, or choose another.`, 400);
  const preset = form.querySelector("[name=preset]:checked");
  if (!preset) throw new Refused("The model is still loading. Try again in a moment.", 503);
  const body = {
    model: "foundation", training_file: await trainingFile(), suffix: fields.name.value, caption: fields.caption.value,
    hyperparameters: JSON.parse(preset.dataset.hyperparameters), metadata: { clips: clips.slice(0, 12).map((clip) => clip.id).join(" ") },
  };
  const training = await api("/v1/fine_tuning/jobs", { method: "POST", body });
  keepDraft({});
  location.href = `${ROOT}/trainings/${training.id}`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  act(document.getElementById("go"), async () => {
    try {
      await train();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      refusal.textContent = error.message;
      refusal.hidden = error.status === 401;
    }
  });
});
form.addEventListener("input", () => keepDraft());
function addChosen() {
  [...chooser.files].forEach(add);
  chooser.value = "";
}
chooser.addEventListener("change", addChosen);
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") [...event.dataTransfer.files].forEach(add);
  });
}
readDraft();
JSON.parse(form.dataset.clips).forEach(add);
addChosen(); // by someone faster than this script
keepDraft();
