// What of a camera differs from the configuration file, and the way into it.

import { make, send } from "./common.js";

export class Saving {
  #camera;
  #root;
  #said;
  #lines;
  #difference;
  #button;

  constructor(camera, root) {
    this.#camera = encodeURIComponent(camera);
    this.#root = root;
    this.#said = make("p", { className: "said" });
    this.#said.setAttribute("role", "status");
    this.#lines = make("pre", { tabIndex: 0, ariaLabel: "Lines of the file that go and that come" });
    this.#difference = make("details", { open: true, hidden: true }, make("summary", { textContent: "What would change in the file" }), this.#lines);
    this.#button = make("button", { type: "button", name: "save", textContent: "Save to the configuration file" });
    this.#button.addEventListener("click", () => this.#save());
    root.append(this.#said, this.#difference, this.#button);
  }

  tell({ unsaved, difference, mistake }) {
    this.#root.hidden = false;
    this.#button.disabled = unsaved === null || unsaved.length === 0;
    this.#difference.hidden = this.#button.disabled;
    this.#lines.textContent = difference;
    if (mistake !== null) {
      this.#said.textContent = `The configuration file has a mistake, so nothing can be saved: ${mistake}`;
    } else if (unsaved === null) {
      this.#said.textContent = "There is no configuration file, so what is changed here is lost when segd ends.";
    } else if (unsaved.length === 0) {
      this.#said.textContent = "Nothing differs from the configuration file.";
    } else {
      this.#said.textContent = `Not in the configuration file: ${unsaved.join(", ")}.`;
    }
  }

  async #save() {
    try {
      const path = await send(`/controls/save?camera=${this.#camera}`);
      this.tell({ unsaved: [], difference: "", mistake: null });
      this.#said.textContent = `Saved in ${path}.`;
    } catch (error) {
      this.#said.textContent = error.message;
    }
  }
}
