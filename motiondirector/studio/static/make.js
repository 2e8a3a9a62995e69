// The form for a new video: motions with strengths, windows and regions; one request for each seed.
import { api, drawSeed, part, Refused } from "./studio.js";
import { regionOn } from "./region.js";

const form = document.getElementById("make");
const rows = document.getElementById("motions");
const results = document.getElementById("results");
const given = JSON.parse(form.dataset.body);
const percent = (share) => `${Math.round(share * 100)} %`;
let known = []; // versions that can be used, from the API

const STRENGTHS = [[0.01, "off"], [0.55, "a hint of it"], [0.9, "weaker"], [1.1, "as learned"], [1.55, "stronger"], [Infinity, "exaggerated"]];
const inWords = (scale) => scale < 0 ? "reversed" : STRENGTHS.find(([below]) => scale < below)[1];

/** Show a row's motion where its region is drawn, if it has a sample video. */
function showMotion(row) {
  const has = known.some((model) => `${model.concept}@${model.version}` === row.wanted && model.preview);
  row.region.show(has ? row.wanted : "");
}

/** Add a motion to the form, as an entry of `lora` describes it. */
function addMotion(entry = {}) {
  const row = document.getElementById("motion-row").content.firstElementChild.cloneNode(true);
  const one = (name) => row.querySelector(`[data-${name}]`);
  row.entry = entry;
  row.wanted = entry.name ?? "";
  fillNames(row);
  const phases = Array.isArray(entry.scale);
  const scale = phases ? entry.scale[0] : entry.scale ?? 1;
  const strength = (value, from) => {
    if (from !== "slider") one("strength").value = value;
    if (from !== "number") one("scale").value = value;
    one("strength-words").textContent = phases && row.entry.scale ? `changes: ${row.entry.scale.join(", ")}` : inWords(Number(value));
  };
  strength(scale);
  const changed = (from) => (event) => {
    delete row.entry.scale; // a list of phases gives way to one number
    strength(event.target.value, from);
  };
  one("strength").addEventListener("input", changed("slider"));
  one("scale").addEventListener("input", changed("number"));

  const window = () => {
    one("window").hidden = one("own-steps").checked;
    one("from-words").textContent = percent(one("from").value);
    one("to-words").textContent = percent(one("to").value);
  };
  if (entry.steps) {
    one("own-steps").checked = false;
    [one("from").value, one("to").value] = entry.steps;
    [one("from").step, one("to").step] = ["any", "any"];
    [one("from").value, one("to").value] = entry.steps;
  }
  one("own-steps").addEventListener("change", window);
  one("from").addEventListener("input", () => {
    if (Number(one("to").value) <= Number(one("from").value)) one("to").value = Math.min(1, Number(one("from").value) + 0.05);
    window();
  });
  one("to").addEventListener("input", () => {
    if (Number(one("to").value) <= Number(one("from").value)) one("from").value = Math.max(0, Number(one("to").value) - 0.05);
    window();
  });
  window();
  row.region = regionOn(row, entry.region, regionsChanged);
  one("when").open = Boolean(entry.region);
  one("name").addEventListener("change", () => { row.wanted = one("name").value; showMotion(row); });
  one("remove").addEventListener("click", () => {
    row.remove();
    motionsChanged();
    document.getElementById("add-motion").focus();
  });
  rows.append(row);
  showMotion(row);
  motionsChanged();
  return row;
}

function motionsChanged() {
  const count = rows.children.length;
  document.getElementById("no-motion").hidden = count > 0;
  document.getElementById("add-motion").disabled = count >= Number(form.dataset.most);
  regionsChanged();
}

/** "Outside, the base model's" needs a region for every motion. */
function regionsChanged() {
  const all = [...rows.children];
  const possible = all.length > 0 && all.every((row) => row.region?.value());
  document.getElementById("outside-choice").hidden = !possible;
  if (!possible) form.elements.outside.checked = false;
}

function fillNames(row) {
  const select = row.querySelector("[data-name]");
  const names = [...new Set([...known.map((model) => `${model.concept}@${model.version}`), ...(row.wanted ? [row.wanted] : [])])];
  select.replaceChildren(...names.map((name) => new Option(name.replace("@", ", version "), name)));
  row.wanted ||= names[0] ?? "";
  select.value = names.find((name) => name === row.wanted) ?? names.find((name) => name.startsWith(`${row.wanted}@`)) ?? names[0] ?? "";
  row.wanted = select.value;
}

async function loadNames() {
  try {
    const { data } = await api("/v1/models");
    known = data.filter((one) => one.concept).sort((a, b) => a.concept.localeCompare(b.concept) || b.version - a.version);
    for (const row of rows.children) {
      fillNames(row);
      showMotion(row);
    }
  } catch (error) {
    if (error.status !== 503) throw error;
    setTimeout(loadNames, 3000); // the model is loading
  }
}

/** The `lora` entry of a row. */
function entryOf(row) {
  const one = (name) => row.querySelector(`[data-${name}]`);
  const entry = { name: one("name").value };
  if (row.entry.path && row.entry.name === entry.name) entry.path = row.entry.path;
  const scale = row.entry.scale && Array.isArray(row.entry.scale) ? row.entry.scale : Number(one("scale").value);
  if (scale !== 1) entry.scale = scale;
  if (!one("own-steps").checked) entry.steps = [Number(one("from").value), Number(one("to").value)];
  const region = row.region.value();
  if (region) entry.region = region;
  return entry;
}

/** The body of the request, without its seed. */
function bodyOf() {
  const fields = form.elements;
  const body = { prompt: fields.prompt.value, lora: [...rows.children].map(entryOf) };
  for (const name of ["guidance_scale", "steps", "frames"]) if (fields[name].value !== "") body[name] = Number(fields[name].value);
  for (const name of ["size", "scheduler", "negative_prompt"]) if (fields[name].value !== "") body[name] = fields[name].value;
  if (fields.outside.checked) body.outside = "base";
  if (given.noise_prior) body.noise_prior = given.noise_prior;
  return body;
}

async function show(id) {
  document.getElementById("no-results").hidden = true;
  const place = document.createElement("div");
  results.append(place);
  if (results.children.length === 1 && window.matchMedia("(max-width: 860px)").matches) {
    document.querySelector(".results").scrollIntoView(); // it is below the form there
  }
  await part(`videos/${id}?look=tile`, place);
  const address = new URL(location.href);
  address.searchParams.append("id", id);
  history.replaceState(null, "", address); // leaving and coming back shows the same results
}

async function make() {
  const refusal = document.getElementById("refusal");
  refusal.hidden = true;
  const first = form.elements.seed.value === "" ? drawSeed() : Number(form.elements.seed.value);
  const body = bodyOf();
  results.replaceChildren();
  const address = new URL(location.href);
  address.searchParams.delete("id");
  history.replaceState(null, "", address);
  try {
    for (let number = 0; number < Number(form.elements.count.value); number++) {
      const video = await api("/v1/videos", { method: "POST", body: { ...body, seed: first + number } });
      await show(video.id);
      if (number === 0 && form.elements.base.checked && body.lora.length) {
        await show((await api(`/videos/${video.id}/base`, { method: "POST" })).id);
      }
    }
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    refusal.textContent = error.message;
    refusal.hidden = error.status === 401;
  }
}

for (const [name, value] of Object.entries(given)) {
  const field = form.elements[name];
  if (field && !["prompt", "lora", "outside"].includes(name)) field.value = value;
}
for (const entry of given.lora ?? []) addMotion(entry);
if (given.outside) form.elements.outside.checked = true;
if (["guidance_scale", "steps", "scheduler", "negative_prompt"].some((name) => given[name] !== undefined)) document.querySelector(".exact").open = true;
motionsChanged();
loadNames().catch((error) => { document.getElementById("refusal").textContent = error.message; document.getElementById("refusal").hidden = false; });

document.getElementById("add-motion").addEventListener("click", () => addMotion().querySelector("[data-name]").focus());
document.getElementById("dice").addEventListener("click", () => { form.elements.seed.value = drawSeed(); });
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const go = document.getElementById("go");
  go.disabled = true;
  await make().finally(() => { go.disabled = false; });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

