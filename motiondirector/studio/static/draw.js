// A motion as a drawn path: points with times on a frame, and the server's drawing of it.
import { act, api, Refused, ROOT } from "./studio.js";

const canvas = document.getElementById("path");
const pen = canvas.getContext("2d");
const body = document.querySelector("#points tbody");
const image = document.getElementById("preview");
const refused = document.getElementById("drawing-refused");
const look = document.getElementById("look");
const name = document.getElementById("name");
const teach = document.getElementById("teach-path"); // absent if the server takes no trainings
const closed = document.getElementById("close");
const MOST = 256; // points that the server draws
const REACH = 18; // pixels of the canvas within which a point is grabbed
let points = []; // { t, x, y, scale, angle }; t from 0 to 1, x and y as shares of the frame
let before = []; // states to return to
let chosen = -1;
let grabbed = false;
let stroke = null;
let waiting = 0;
let asked = null;

const round = (value, digits = 4) => Number(value.toFixed(digits));
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function remember() {
  before.push(JSON.stringify({ points, closed: closed.checked }));
  if (before.length > 200) before.shift();
}

/** The points as the file has them. A closed path ends where it began, and all times make room for that. */
function trajectory() {
  const all = points.map((point) => ({ ...point }));
  if (closed.checked && all.length > 1) {
    const ways = distances();
    const back = Math.hypot(all[0].x - all.at(-1).x, all[0].y - all.at(-1).y);
    const share = back / (ways.at(-1) + back || 1);
    all.forEach((point) => { point.t *= 1 - share; });
    if (share > 0) all.push({ ...all[0], t: 1, scale: all[0].scale, angle: all.at(-1).angle });
  }
  return all.map(({ t, x, y, scale, angle }) => [round(t), round(x), round(y), round(scale), round(angle)]);
}

function distances() {
  const ways = [0];
  for (let i = 1; i < points.length; i++) ways.push(ways[i - 1] + Math.hypot(points[i].x - points[i - 1].x, points[i].y - points[i - 1].y));
  return ways;
}

/** Times in proportion to the way, so that the object keeps its pace. */
function evenPace() {
  const ways = distances();
  const whole = ways.at(-1) || 1;
  points.forEach((point, i) => { point.t = points.length > 1 ? ways[i] / whole : 0; });
  rising();
}

/** Two points at one place still need two times. */
function rising() {
  const least = 0.001;
  for (let i = 1; i < points.length; i++) points[i].t = Math.max(points[i].t, points[i - 1].t + least);
  const end = points.at(-1)?.t ?? 1;
  if (end > 1) points.forEach((point) => { point.t /= end; });
}

function changed() {
  if (chosen >= points.length) chosen = points.length - 1;
  paint();
  fillTable();
  document.getElementById("undo").disabled = !before.length;
  document.getElementById("clear").disabled = !points.length;
  document.getElementById("save").disabled = points.length < 2;
  if (teach) teach.disabled = points.length < 2;
  document.getElementById("no-preview").hidden = points.length > 1;
  image.hidden = points.length < 2;
  commands();
  clearTimeout(waiting);
  if (points.length > 1) waiting = setTimeout(preview, 250);
}

async function preview() {
  asked?.abort();
  asked = new AbortController();
  try {
    const drawn = await api("/drawings/preview", {
      method: "POST", raw: true, signal: asked.signal, body: { points: trajectory(), prompt: look.value },
    });
    const address = URL.createObjectURL(await drawn.blob());
    URL.revokeObjectURL(image.src);
    image.src = address;
    refused.hidden = true;
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refused)) throw error;
    refused.textContent = error.message;
    refused.hidden = error.status === 401;
  }
}

function paint() {
  const { width, height } = canvas;
  pen.clearRect(0, 0, width, height);
  pen.strokeStyle = "#ffffff1c";
  pen.lineWidth = 1;
  for (let i = 1; i < 4; i++) {
    pen.strokeRect((i * width) / 4, -1, 0, height + 2);
    pen.strokeRect(-1, (i * height) / 4, width + 2, 0);
  }
  const at = ({ x, y }) => [x * width, y * height];
  pen.lineWidth = 4;
  pen.lineJoin = pen.lineCap = "round";
  for (let i = 1; i < points.length; i++) {
    pen.strokeStyle = `hsl(${255 + 80 * (i / points.length)} 95% 72%)`;
    pen.beginPath();
    pen.moveTo(...at(points[i - 1]));
    pen.lineTo(...at(points[i]));
    pen.stroke();
  }
  if (closed.checked && points.length > 1) {
    pen.setLineDash([3, 10]);
    pen.beginPath();
    pen.moveTo(...at(points.at(-1)));
    pen.lineTo(...at(points[0]));
    pen.stroke();
    pen.setLineDash([]);
  }
  points.forEach((point, i) => {
    const ends = i === 0 || i === points.length - 1;
    pen.fillStyle = i === chosen ? "#ff6b9a" : ends ? "#fff" : "#cfc4ff";
    pen.beginPath();
    pen.arc(...at(point), i === chosen ? 11 : ends ? 9 : 6, 0, 2 * Math.PI);
    pen.fill();
    if (ends) {
      pen.fillStyle = "#fff";
      pen.font = "600 17px system-ui, sans-serif";
      const [x, y] = at(point);
      pen.fillText(i === 0 ? "start" : "end", clamp(x + 14, 0, width - 52), clamp(y - 12, 18, height - 6));
    }
  });
}

const COLUMNS = [["t", 100, 0, 100], ["x", 100, -100, 200], ["y", 100, -100, 200], ["scale", 1, 0.05, 10], ["angle", 1, -20, 20]];
const LABELS = { t: "when in percent", x: "across in percent", y: "down in percent", scale: "size", angle: "turns" };

function fillTable() {
  if (body.contains(document.activeElement) && body.rows.length === points.length) {
    points.forEach((point, i) => [...body.rows[i].querySelectorAll("input")].forEach((field, column) => {
      const [key, factor] = COLUMNS[column];
      if (field !== document.activeElement) field.value = round(point[key] * factor, 2);
    }));
    return;
  }
  body.replaceChildren(...points.map((point, i) => {
    const row = document.createElement("tr");
    row.classList.toggle("chosen", i === chosen);
    row.insertCell().textContent = i + 1;
    for (const [key, factor, low, high] of COLUMNS) {
      const field = document.createElement("input");
      Object.assign(field, { type: "number", step: "any", min: low, max: high, value: round(point[key] * factor, 2) });
      field.setAttribute("aria-label", `Point ${i + 1}: ${LABELS[key]}`);
      field.addEventListener("focus", () => { chosen = i; paint(); });
      field.addEventListener("change", () => {
        const value = Number(field.value) / factor;
        if (!Number.isFinite(value) || field.value === "") { field.value = round(point[key] * factor, 2); return; }
        remember();
        point[key] = clamp(value, low / factor, high / factor);
        if (key === "t") { points.sort((a, b) => a.t - b.t); rising(); }
        changed();
      });
      row.insertCell().append(field);
    }
    const remove = document.createElement("button");
    Object.assign(remove, { type: "button", className: "quiet small", textContent: "✕" });
    remove.setAttribute("aria-label", `Remove point ${i + 1}`);
    remove.addEventListener("click", () => { remember(); points.splice(i, 1); changed(); });
    row.insertCell().append(remove);
    return row;
  }));
}

function commands() {
  const said = name.value || "my-motion";
  document.getElementById("commands").textContent = [
    `motiondirector sprites render --trajectory ${said}.json --appearances 4 --to clips/${said}`,
    `motiondirector ingest clips/${said} --captions clips/${said}/captions.csv --concept ${said} --to sets/${said}`,
    `motiondirector train --concept ${said} --data sets/${said}`,
  ].join("\n");
}

const where = (event) => {
  const place = canvas.getBoundingClientRect();
  return { x: clamp((event.clientX - place.left) / place.width, 0, 1), y: clamp((event.clientY - place.top) / place.height, 0, 1) };
};
const near = ({ x, y }) => points.findIndex((point) => Math.hypot((point.x - x) * canvas.width, (point.y - y) * canvas.height) < REACH);

function append(place) {
  if (points.length >= MOST) return;
  points.push({ t: 1, ...place, scale: points.at(-1)?.scale ?? 1, angle: points.at(-1)?.angle ?? 0 });
  evenPace();
  chosen = points.length - 1;
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  const place = where(event);
  remember();
  const found = near(place);
  grabbed = found >= 0;
  if (grabbed) chosen = found;
  else {
    append(place);
    stroke = place;
  }
  changed();
});
canvas.addEventListener("pointermove", (event) => {
  const place = where(event);
  if (grabbed) Object.assign(points[chosen], place);
  else if (stroke && Math.hypot(place.x - stroke.x, place.y - stroke.y) > 0.05) {
    append(place);
    stroke = place;
  } else return;
  changed();
});
for (const ending of ["pointerup", "pointercancel"]) canvas.addEventListener(ending, () => { grabbed = false; stroke = null; });

canvas.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 0.05 : 0.01;
  const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (event.key === "Enter") {
    remember();
    append(points.length ? { x: clamp(points.at(-1).x + 0.1, 0, 1), y: points.at(-1).y } : { x: 0.5, y: 0.5 });
  } else if (event.key in ways && points[chosen]) {
    remember();
    points[chosen].x = clamp(points[chosen].x + ways[event.key][0], 0, 1);
    points[chosen].y = clamp(points[chosen].y + ways[event.key][1], 0, 1);
  } else if (["Delete", "Backspace"].includes(event.key) && points[chosen]) {
    remember();
    points.splice(chosen, 1);
  } else return;
  event.preventDefault();
  changed();
});

document.getElementById("undo").addEventListener("click", () => {
  const state = JSON.parse(before.pop());
  points = state.points;
  closed.checked = state.closed;
  changed();
});
document.getElementById("clear").addEventListener("click", () => { remember(); points = []; chosen = -1; changed(); });
document.getElementById("even").addEventListener("click", () => { remember(); evenPace(); changed(); });
closed.addEventListener("change", changed);
look.addEventListener("change", changed);
name.addEventListener("input", commands);
document.getElementById("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${JSON.stringify(trajectory())}\n`], { type: "application/json" }));
  link.download = `${name.value || "my-motion"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
teach?.addEventListener("click", () => act(teach, async () => {
  const body = { points: trajectory(), prompt: look.value, name: name.value };
  const file = await api("/drawings/clip", { method: "POST", body });
  location.href = `${ROOT}/teach?${new URLSearchParams({ file: file.id, caption: look.value, name: name.value })}`;
}));
document.getElementById("load").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  try {
    const loaded = read(JSON.parse(await file.text()));
    remember();
    points = loaded;
    closed.checked = false;
    chosen = -1;
    name.value = file.name.replace(/\.json$/i, "").toLowerCase().replace(/[^a-z0-9._-]+/g, "-") || "my-motion";
    refused.hidden = true;
    changed();
  } catch (error) {
    refused.textContent = `${file.name} is no path: ${error.message}`;
    refused.hidden = false;
  }
});

/** The points of a file, as `motiondirector sprites render` reads it. Throws an Error with a sentence. */
function read(loaded) {
  if (!Array.isArray(loaded) || loaded.length < 2) throw new Error("expected a list of at least two [t, x, y].");
  if (loaded.length > MOST) throw new Error(`it has ${loaded.length} points; at most ${MOST} can be edited here.`);
  const all = loaded.map((entry, i) => {
    const [t, x, y, scale = 1, angle = 0] = Array.isArray(entry) ? entry : [entry.t, entry.x, entry.y, entry.scale, entry.angle];
    if (![t, x, y, scale, angle].every(Number.isFinite)) throw new Error(`point ${i + 1} is not [t, x, y(, scale, angle)].`);
    return { t, x, y, scale, angle };
  });
  const [start, end] = [all[0].t, all.at(-1).t];
  if (!(end > start)) throw new Error("t must rise from point to point.");
  all.forEach((point) => { point.t = (point.t - start) / (end - start); });
  return all;
}

changed();
