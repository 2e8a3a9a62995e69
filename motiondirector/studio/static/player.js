// Plays videos: previews by themselves, those of a comparison in step, with the measured path over them.
const CALM = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
const started = new WeakSet();
const paths = new Map(); // of videos, by id: null while it is asked for
let wantsPaths = false;

const synced = () => [...document.querySelectorAll("video[data-synced]")];
const idOf = (video) => video.closest("[data-video]")?.dataset.video;

/** Start the players of new content. `api` asks for measured paths. */
export function startPlayers(api) {
  document.querySelectorAll("video").forEach((video) => {
    if (started.has(video)) return;
    started.add(video);
    video.muted = true;
    video.addEventListener("error", () => {
      const gone = video.parentElement.querySelector(".gone");
      if (gone) gone.hidden = false;
    });
    if (video.hasAttribute("data-hover")) playWhenPointed(video);
    if (video.hasAttribute("data-synced")) {
      followFrames(video);
      video.addEventListener("loadeddata", () => restart(api));
    } else if (video.hasAttribute("data-autoplay") && !CALM) {
      playWhenSeen(video);
    }
  });
  const transport = document.querySelector("[data-transport]");
  if (transport) {
    transport.hidden = !synced().length;
    if (!started.has(transport)) {
      started.add(transport);
      control(transport, api);
    }
  }
}

const seen = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
  if (isIntersecting) target.play().catch(() => {});
  else target.pause();
}));
const playWhenSeen = (video) => seen.observe(video);

function playWhenPointed(video) {
  const area = video.closest(".take");
  for (const name of ["pointerenter", "focusin"]) area.addEventListener(name, () => video.play().catch(() => {}));
  for (const name of ["pointerleave", "focusout"]) area.addEventListener(name, () => video.pause());
}

/** Note the time of the frame that is on the screen, which `currentTime` runs ahead of. */
function followFrames(video) {
  if (!video.requestVideoFrameCallback) return;
  const note = (_now, { mediaTime }) => {
    video.shownAt = mediaTime;
    video.requestVideoFrameCallback(note);
  };
  video.requestVideoFrameCallback(note);
}

/** Begin all videos of a comparison together. */
function restart(api) {
  const transport = document.querySelector("[data-transport]");
  const pace = Number(transport?.querySelector("[data-pace]").value ?? 1);
  const paused = transport?.querySelector("[data-play]").getAttribute("aria-pressed") === "false";
  for (const video of synced()) {
    video.playbackRate = pace;
    video.currentTime = 0;
    if (!paused) video.play().catch(() => {});
  }
  if (wantsPaths) showPaths(api);
}

function control(transport, api) {
  const play = transport.querySelector("[data-play]");
  const scrub = transport.querySelector("[data-scrub]");
  const pressed = (playing) => {
    play.setAttribute("aria-pressed", String(playing));
    play.textContent = playing ? "Pause" : "Play";
  };
  if (CALM) pressed(false);
  play.addEventListener("click", () => {
    const playing = play.getAttribute("aria-pressed") === "false";
    pressed(playing);
    synced().forEach((video) => playing ? video.play().catch(() => {}) : video.pause());
  });
  scrub.addEventListener("input", () => {
    pressed(false);
    synced().forEach((video) => {
      video.pause();
      if (video.duration) video.currentTime = Math.min(scrub.value * video.duration, video.duration - 0.001);
    });
  });
  transport.querySelector("[data-pace]").addEventListener("change", () => restart(api));
  transport.querySelector("[data-paths]").addEventListener("change", (event) => {
    wantsPaths = event.target.checked;
    document.querySelectorAll("canvas.over").forEach((canvas) => { canvas.hidden = !wantsPaths; });
    document.getElementById("measured").textContent = "";
    if (wantsPaths) showPaths(api);
  });
  const tick = () => {
    const [first, ...others] = synced();
    if (first?.duration) {
      if (document.activeElement !== scrub) scrub.value = first.currentTime / first.duration;
      for (const video of others) { // drift of more than a frame is corrected
        if (!video.paused && Math.abs(video.currentTime - first.currentTime) > 0.15 && video.duration > first.currentTime) {
          video.currentTime = first.currentTime;
        }
      }
    }
    if (wantsPaths) synced().forEach(draw);
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}

async function showPaths(api) {
  const told = document.getElementById("measured");
  for (const video of synced()) {
    const id = idOf(video);
    video.parentElement.querySelector(".over").hidden = false;
    if (paths.has(id)) continue;
    paths.set(id, null);
    try {
      const path = await api(`/videos/${id}/path`);
      paths.set(id, path);
      if (path.found < path.frames) told.textContent = "In some frames no object was found: there the line is broken.";
    } catch (error) {
      told.textContent = error.message;
      paths.delete(id);
      return;
    }
  }
}

function draw(video) {
  const path = paths.get(idOf(video));
  const canvas = video.parentElement.querySelector(".over");
  if (!path || !canvas) return;
  const pen = canvas.getContext("2d");
  const at = ([x, y]) => [x * canvas.width, y * canvas.height];
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.lineJoin = pen.lineCap = "round";
  for (const [width, colour] of [[13, "#000a"], [5, "#fff"]]) {
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.beginPath();
    let down = false;
    for (const point of path.points) {
      if (point) pen[down ? "lineTo" : "moveTo"](...at(point));
      down = Boolean(point);
    }
    pen.stroke();
  }
  const shown = video.shownAt ?? video.currentTime;
  const frame = Math.min(path.frames - 1, Math.floor((shown / (video.duration || 1)) * path.frames + 0.01));
  const here = path.points[frame];
  if (!here) return;
  pen.fillStyle = "#ff3d7f";
  pen.strokeStyle = "#fff";
  pen.lineWidth = 5;
  pen.beginPath();
  pen.arc(...at(here), 13, 0, 2 * Math.PI);
  pen.fill();
  pen.stroke();
}
