// Follows the videos of the page that are being made, through one stream of the API's events.
const WATCHED = new Set(["queued", "in_progress"]);
const WORDS = {
  queued: (video) => video.queue_position ? `Waiting: ${video.queue_position} before it` : "Next in line",
  in_progress: (video) => `Making it: ${video.progress} %`,
};
const MOST = 24;
let stream = null;
let followed = new Set(); // ids of the stream

const takesOf = (id) => document.querySelectorAll(`[data-video="${id}"]`);

/** Open a stream for what is unfinished. `refresh` replaces a take by its present state. */
export function watchVideos(root, refresh) {
  const unfinished = [...document.querySelectorAll("[data-video]")].filter((take) => WATCHED.has(take.dataset.status));
  const ids = [...new Set(unfinished.map((take) => take.dataset.video))].slice(0, MOST);
  if (ids.length && ids.every((id) => followed.has(id)) && stream?.readyState !== EventSource.CLOSED) return;
  stream?.close();
  stream = null;
  followed = new Set(ids);
  if (!ids.length) return;
  stream = new EventSource(`${root}/api/events?${ids.map((id) => `id=${id}`).join("&")}`);
  for (const status of Object.keys(WORDS)) {
    stream.addEventListener(`video.${status}`, (event) => show(JSON.parse(event.data)));
  }
  for (const ending of ["completed", "failed", "cancelled"]) {
    stream.addEventListener(`video.${ending}`, (event) => end(JSON.parse(event.data).id, ending, refresh));
  }
  stream.addEventListener("video.deleted", (event) => takesOf(JSON.parse(event.data).id).forEach((take) => take.remove()));
  stream.addEventListener("video.preview", (event) => picture(JSON.parse(event.data)));
}

function show(video) {
  for (const take of takesOf(video.id)) {
    take.dataset.status = video.status;
    const state = take.querySelector("[data-state]");
    const progress = take.querySelector("progress");
    if (!state || !progress) continue;
    const words = WORDS[video.status](video);
    if (state.textContent !== words) state.textContent = words;
    progress.value = Math.max(progress.value, video.progress); // a lost engine begins again; what is shown does not go back
  }
}

function end(id, status, refresh) {
  for (const take of takesOf(id)) {
    if (take.dataset.status === status) continue;
    take.dataset.status = status;
    refresh(take);
  }
  if (status === "completed") document.querySelectorAll("[data-when-done]").forEach((link) => {
    if (link.href.includes(id)) link.hidden = false;
  });
}

function picture({ id, image, media_type: type }) {
  const loaded = new Image();
  loaded.onload = () => takesOf(id).forEach((take) => {
    const canvas = take.querySelector("canvas.preview");
    canvas?.getContext("2d").drawImage(loaded, 0, 0, canvas.width, canvas.height);
  });
  loaded.src = `data:${type};base64,${image}`;
}
