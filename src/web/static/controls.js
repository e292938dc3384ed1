// The controls of one camera: what changes in the picture from the next frame on.

async function send(path, body) {
  const answer = await fetch(path, { method: "POST", body: body === undefined ? undefined : JSON.stringify(body) });
  const text = (await answer.text()).trim();
  if (!answer.ok) { throw new Error(text); }
  return text;
}

const make = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

const STYLES = ["overlay", "contour", "mask", "labels", "side-by-side"];
const WAYS = ["blur", "pixelate", "fill"];

export class Controls {
  #camera;
  #root;
  #said;
  #form = null;

  constructor(camera, root) {
    this.#camera = encodeURIComponent(camera);
    this.#root = root;
    this.#said = make("p", { className: "said" });
    this.#said.setAttribute("role", "status");
    this.#load();
  }

  async #load() {
    try {
      const answer = await fetch(`/controls?camera=${this.#camera}`);
      if (!answer.ok) { throw new Error((await answer.text()).trim()); }
      this.#show(await answer.json());
    } catch (error) {
      this.#root.replaceChildren(make("p", { className: "bad", textContent: error.message }));
    }
  }

  async #change(change, field) {
    for (const old of this.#root.querySelectorAll(".mistake")) { old.remove(); }
    try {
      this.#tell(JSON.parse(await send(`/controls?camera=${this.#camera}`, change)));
    } catch (error) {
      const mistake = make("p", { className: "mistake bad", textContent: error.message });
      mistake.setAttribute("role", "alert");
      field.closest("div, fieldset").append(mistake);
    }
  }

  // Says which keys differ from the file.
  #tell({ unsaved }) {
    const button = this.#form.querySelector("[name=save]");
    button.disabled = unsaved === null || unsaved.length === 0;
    if (unsaved === null) {
      this.#said.textContent = "The configuration file has a mistake, so nothing can be saved.";
    } else if (unsaved.length === 0) {
      this.#said.textContent = "Nothing differs from the configuration file.";
    } else {
      this.#said.textContent = `Not in the configuration file: ${unsaved.join(", ")}.`;
    }
  }

  async #save() {
    try {
      const path = await send(`/controls/save?camera=${this.#camera}`);
      await this.#load();
      this.#said.textContent = `Saved in ${path}.`;
    } catch (error) {
      this.#said.textContent = error.message;
    }
  }

  #show(now) {
    const style = make("select", { id: "visualize" }, ...STYLES.map((name) => make("option", { textContent: name, selected: name === now.visualize })));
    style.addEventListener("change", () => this.#change({ visualize: style.value }, style));

    const opacity = make("input", { id: "alpha", type: "range", min: 0, max: 1, step: 0.05, value: now.alpha });
    const percent = make("output", { htmlFor: "alpha", textContent: `${Math.round(now.alpha * 100)} %` });
    opacity.addEventListener("input", () => {
      percent.textContent = `${Math.round(opacity.value * 100)} %`;
      this.#change({ alpha: Number(opacity.value) }, opacity);
    });

    const legend = make("input", { id: "legend", type: "checkbox", checked: now.legend });
    legend.addEventListener("change", () => this.#change({ legend: legend.checked }, legend));

    const classes = make("fieldset", { className: "classes" }, make("legend", { textContent: `Classes of ${now.model}` }));
    const boxes = [];
    for (const { name, color, is_background: isBackground, is_shown: isShown, hidden } of now.classes) {
      const box = make("input", { type: "checkbox", name: "class", value: name, checked: isShown });
      boxes.push(box);
      box.addEventListener("change", () => {
        const shown = boxes.filter((one) => one.checked).map((one) => one.value);
        this.#change({ classes: shown }, box);
      });
      const patch = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      patch.setAttribute("viewBox", "0 0 1 1");
      patch.setAttribute("aria-hidden", "true");
      const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      for (const [key, value] of Object.entries({ width: 1, height: 1, fill: color })) { square.setAttribute(key, value); }
      patch.append(square);
      const drawn = make("label", {}, box, patch, ` ${name}`);
      const hide = make("select", { title: `How ${name} is hidden`, ariaLabel: `How ${name} is hidden` });
      const least = WAYS.indexOf(hidden);
      hide.append(make("option", { value: "", textContent: "seen", disabled: hidden !== null, selected: hidden === null }));
      hide.append(...WAYS.map((way, at) => make("option", { value: way, textContent: way, disabled: at < least, selected: way === hidden })));
      hide.addEventListener("change", async () => {
        await this.#change({ hide: { [name]: hide.value } }, hide);
        for (const option of hide.options) { option.disabled ||= option.index < hide.selectedIndex; }
      });
      classes.append(make("div", {}, drawn, isBackground ? "" : hide));
    }

    const save = make("button", { type: "button", name: "save", textContent: "Save to the configuration file" });
    save.addEventListener("click", () => this.#save());
    this.#form = make(
      "form",
      {},
      make("div", {}, make("label", { htmlFor: "visualize", textContent: "Style" }), style),
      make("div", {}, make("label", { htmlFor: "alpha", textContent: "Opacity" }), opacity, percent),
      make("div", {}, legend, make("label", { htmlFor: "legend", textContent: "Names in the picture" })),
      classes,
      save,
      this.#said,
    );
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#root.replaceChildren(this.#form);
    this.#tell(now);
  }
}
