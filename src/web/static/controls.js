// The controls of one camera: what changes in the picture from the next frame on.

import { blame, draw, forgive, get, make, send } from "./common.js";

const STYLES = ["overlay", "contour", "mask", "labels", "side-by-side", "instances"];
const WAYS = ["blur", "pixelate", "fill"];

export class Controls {
  #camera;
  #root;
  #saving;

  constructor(camera, root, saving) {
    this.#camera = encodeURIComponent(camera);
    this.#root = root;
    this.#saving = saving;
    this.#load();
  }

  async #load() {
    try {
      this.#show(await get(`/controls?camera=${this.#camera}`));
    } catch (error) {
      this.#root.replaceChildren(make("p", { className: "bad", textContent: error.message }));
    }
  }

  async #change(change, field) {
    forgive(this.#root);
    try {
      this.#saving.tell(JSON.parse(await send(`/controls?camera=${this.#camera}`, change)));
    } catch (error) {
      blame(field, field.closest("div, fieldset"), error.message);
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
      const patch = draw("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" }, draw("rect", { width: 1, height: 1, fill: color }));
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

    const form = make(
      "form",
      {},
      make("div", {}, make("label", { htmlFor: "visualize", textContent: "Style" }), style),
      make("div", {}, make("label", { htmlFor: "alpha", textContent: "Opacity" }), opacity, percent),
      make("div", {}, legend, make("label", { htmlFor: "legend", textContent: "Names in the picture" })),
      classes,
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    this.#root.replaceChildren(form);
    this.#saving.tell(now);
  }
}
