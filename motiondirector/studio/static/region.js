// The part of the frame in which a motion acts: a box, dragged over a picture of the motion or given as numbers.
import { ROOT } from "./studio.js";

/** The region of a motion's row. `given`: a region of the API; one that is no box is kept as it is. */
export function regionOn(row, given, changed) {
  const one = (name) => row.querySelector(`[data-${name}]`);
  const canvas = one("region");
  const edges = [...row.querySelectorAll("[data-edge]")];
  const on = one("has-region");
  const other = given && !(given.box && (given.unit ?? "fraction") === "fraction") ? given : null;
  const picture = document.createElement("video");
  picture.muted = picture.playsInline = true;
  let kept = other;
  let pressed = null;

  if (given) on.checked = true;
  if (given && !other) {
    given.box.forEach((share, index) => { edges[index].value = Math.round(share * 1000) / 10; edges[index].step = "any"; });
    if (given.feather !== undefined) one("feather").value = given.feather;
  }
  if (kept) {
    const shape = ["polygon", "keyframes", "mask"].find((name) => kept[name]) ?? "box in pixels";
    one("kept").textContent = `It has a ${shape} from the earlier request. Drag a box to replace it.`;
  }

  const box = () => edges.map((edge) => Math.min(100, Math.max(0, Number(edge.value))) / 100);
  const valid = ([left, top, right, bottom]) => left < right && top < bottom;

  function update() {
    one("box").hidden = one("soft").hidden = !on.checked || Boolean(kept);
    one("kept").hidden = !on.checked || !kept;
    edges.forEach((edge) => edge.setCustomValidity(on.checked && !kept && !valid(box()) ? "Left must be below right, and top below bottom." : ""));
    paint();
    changed();
  }

  function paint() {
    const pen = canvas.getContext("2d");
    const { width, height } = canvas;
    pen.clearRect(0, 0, width, height);
    pen.imageSmoothingEnabled = false;
    if (picture.readyState >= 2) pen.drawImage(picture, 0, 0, width, height);
    if (!on.checked || kept || !valid(box())) return;
    const [left, top, right, bottom] = box().map((share, index) => share * (index % 2 ? height : width));
    pen.fillStyle = "#0b0915b8";
    pen.beginPath();
    pen.rect(0, 0, width, height);
    pen.rect(left, top, right - left, bottom - top);
    pen.fill("evenodd");
    pen.strokeStyle = "#ff6b9a";
    pen.lineWidth = 3;
    pen.strokeRect(left, top, right - left, bottom - top);
  }

  const at = (event) => {
    const place = canvas.getBoundingClientRect();
    return [(event.clientX - place.left) / place.width, (event.clientY - place.top) / place.height]
      .map((share) => Math.round(Math.min(1, Math.max(0, share)) * 100));
  };
  canvas.addEventListener("pointerdown", (event) => {
    pressed = at(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pressed) return;
    const [x, y] = at(event);
    if (Math.abs(x - pressed[0]) < 3 || Math.abs(y - pressed[1]) < 3) return;
    kept = null;
    on.checked = true;
    const corners = [Math.min(x, pressed[0]), Math.min(y, pressed[1]), Math.max(x, pressed[0]), Math.max(y, pressed[1])];
    corners.forEach((value, index) => { edges[index].value = value; });
    update();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { pressed = null; });
  on.addEventListener("change", update);
  edges.forEach((edge) => edge.addEventListener("input", update));
  one("feather").addEventListener("input", changed);
  picture.addEventListener("loadeddata", () => { picture.currentTime = picture.duration / 2; });
  picture.addEventListener("seeked", paint);
  queueMicrotask(update);

  return {
    /** The region as the API takes it; null: the whole frame. */
    value() {
      if (!on.checked) return null;
      return kept ?? { box: box(), feather: Number(one("feather").value) };
    },
    /** Show a frame of the motion's sample below the box. */
    show(name) {
      const address = name.includes("@") ? `${ROOT}/api/v1/models/foundation:${name}/preview` : "";
      if (!address) {
        picture.removeAttribute("src");
        picture.load(); // forgets the frame of the motion before
        paint();
      } else if (picture.getAttribute("src") !== address) picture.src = address;
    },
  };
}
