// One clip of the page Teach: uploaded, shown as the model will see it, trimmed, refused, removed.
import { api, Refused } from "../studio.js";
import { upload } from "./upload.js";

let waiting = Promise.resolve(); // uploads go one after another

export class Clip {
  /** `given`: a File of the browser, or what the API says of an uploaded one. `changed` is called at every change. */
  constructor(given, changed) {
    this.changed = changed;
    this.card = document.getElementById("clip-card").content.firstElementChild.cloneNode(true);
    this.stop = new AbortController();
    this.chosen = given instanceof File ? given : null;
    this.id = this.chosen ? null : given.id;
    this.seen = null; // what the server saw in it
    this.name = given.name;
    this.one("name").textContent = given.name;
    this.one("remove").setAttribute("aria-label", `Remove ${given.name}`);
    this.one("remove").addEventListener("click", () => this.remove());
    this.one("retry").addEventListener("click", () => { this.ready = this.begin(); });
    this.one("start").addEventListener("change", () => { if (this.id !== null) this.ready = this.look(); }); // else it looks when it has arrived
    this.ready = Promise.resolve().then(() => this.begin()); // when the page has it in its list
  }

  one(name) { return this.card.querySelector(`[data-${name}]`); }
  get start() { return Number(this.one("start").value) || 0; }
  get caption() { return this.one("caption").value.trim(); }
  get usable() { return this.seen !== null; }

  async begin() {
    this.refuse("");
    if (this.id === null) {
      const turn = waiting.then(() => this.send());
      waiting = turn.catch(() => {});
      await turn;
    } else this.one("progress").hidden = true;
    if (this.id !== null) await this.look();
  }

  async send() {
    if (this.stop.signal.aborted) return;
    const bar = this.one("progress");
    bar.hidden = false;
    this.note("Uploading");
    try {
      const file = await upload(this.chosen, (share) => { bar.value = Math.max(bar.value, 100 * share); }, this.stop.signal);
      this.id = file.id;
      bar.hidden = true;
    } catch (error) {
      bar.value = 0;
      bar.hidden = true;
      this.failed(error, error.status === 401 ? "Your session ended before this clip had arrived. Sign in, and choose it again." : undefined);
    }
    this.changed();
  }

  /** Ask the server what a training would see. */
  async look() {
    this.seen = null;
    this.refuse("");
    this.note("Cutting");
    this.changed();
    const asked = this.asked = {};
    try {
      const seen = await api(`/clips/${this.id}?start=${this.start}`, { signal: this.stop.signal });
      if (asked === this.asked) this.show(seen);
    } catch (error) {
      if (asked === this.asked) this.failed(error);
    }
    this.changed();
  }

  show(seen) {
    this.seen = seen;
    const pictures = seen.animations.map((content, number) => {
      const picture = new Image(seen.width, seen.height);
      picture.src = `data:image/webp;base64,${content}`;
      picture.alt = `${this.name}, clip ${number + 1}, as the model sees it`;
      return picture;
    });
    this.one("screen").replaceChildren(...pictures);
    const cut = seen.clips === 1 ? "One clip" : `${seen.clips} clips`;
    this.one("facts").textContent = [`${cut} of ${seen.frames} frames (${(seen.frames / seen.fps).toFixed(1)} s), ${seen.width} × ${seen.height}, as the model sees it.`, ...seen.remarks].join(" ");
  }

  failed(error, message = error.message) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refused)) throw error;
    this.note("Not usable");
    this.refuse(message);
    this.one("retry").hidden = error.status === 422 || error.status === 413;
  }

  refuse(message) {
    this.one("why").textContent = message;
    this.one("why").hidden = !message;
    this.one("retry").hidden = true;
    this.one("facts").textContent = "";
  }

  note(text) {
    const note = document.createElement("p");
    note.className = "nothing";
    note.setAttribute("role", "status");
    note.textContent = text;
    this.one("screen").replaceChildren(note);
  }

  remove() {
    this.stop.abort();
    this.card.remove();
    this.changed(this);
  }
}
