// The controls of one camera: what changes in the picture from the next frame on, and the model.

import { blame, forgive, get, make, send } from "./common.js";

const STYLES = ["overlay", "contour", "mask", "labels", "side-by-side", "instances", "panoptic"];
const WAYS = ["blur", "pixelate", "fill"];
// Keys of [masks]: what they are called, what they are if nothing is said, and their steps.
const MASKS = [
  ["max_mask_age_ms", "Age that masks should not exceed, ms", "100", 10],
  ["cpu_budget", "Cores that segd may use", "no limit", 0.1],
  ["every", "Segment every n-th frame alone", "as needed", 1],
];

const option = (value, words, chosen, more = {}) => make("option", { value, textContent: words, selected: value === chosen, ...more });

// What an inference and its answers are like, for people.
function card(model) {
  if (model.error !== null) { return [make("p", { className: "bad", textContent: model.error })]; }
  const lines = [];
  if (model.description !== "") { lines.push(["About", model.description]); }
  lines.push(["Classes", `${model.classes.length}: ${model.classes.join(", ")}`]);
  const cost = model.multiply_accumulates === null ? "" : `${(model.multiply_accumulates / 1e9).toFixed(2)} GMAC an inference, `;
  lines.push(["Cost", `${cost}input ${model.width}x${model.height}, files ${model.precisions.join(", ")}`]);
  for (const score of model.scores) {
    lines.push(["Score", `${score.metric} ${score.value.toFixed(1)} (${score.precision}; ${score.dataset} ${score.split}, ${score.images} images)`]);
  }
  if (model.license !== "") { lines.push(["Licence", model.license]); }
  return lines.map(([name, words]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: words })));
}

export class Controls {
  #camera;
  #root;
  #saving;
  #looks = make("form", { autocomplete: "off" });
  #model = make("form", { className: "model" });
  // The model that is being loaded, and where that is said.
  #loading = null;
  #told;

  constructor(camera, root, saving) {
    this.#camera = encodeURIComponent(camera);
    this.#root = root;
    this.#saving = saving;
    for (const form of [this.#looks, this.#model]) { form.addEventListener("submit", (event) => event.preventDefault()); }
    this.#root.replaceChildren(this.#looks, this.#model);
    this.#load();
    this.#loadModels();
  }

  async #load() {
    try {
      this.#show(await get(`/controls?camera=${this.#camera}`));
    } catch (error) {
      this.#looks.replaceChildren(make("p", { className: "bad", textContent: error.message }));
    }
  }

  async #change(change, field) {
    forgive(this.#looks);
    try {
      const now = JSON.parse(await send(`/controls?camera=${this.#camera}`, change));
      this.#saving.tell(now);
      return now;
    } catch (error) {
      blame(field, field.closest("div, fieldset"), error.message);
      return null;
    }
  }

  #show(now) {
    const style = make("select", { id: "visualize" }, ...STYLES.map((name) => option(name, name, now.visualize)));
    style.addEventListener("change", () => this.#change({ visualize: style.value }, style));

    const range = (id, most, value, key) => {
      const input = make("input", { id, type: "range", min: 0, max: most, step: 0.05, value });
      const shown = make("output", { htmlFor: id, textContent: `${Math.round(value * 100)} %` });
      input.addEventListener("input", () => {
        shown.textContent = `${Math.round(input.value * 100)} %`;
        this.#change({ [key]: Number(input.value) }, input);
      });
      return [input, shown];
    };

    const legend = make("input", { id: "legend", type: "checkbox", checked: now.legend });
    legend.addEventListener("change", () => this.#change({ legend: legend.checked }, legend));

    this.#looks.replaceChildren(
      make("div", {}, make("label", { htmlFor: "visualize", textContent: "Style" }), style),
      make("div", {}, make("label", { htmlFor: "alpha", textContent: "Opacity" }), ...range("alpha", 1, now.alpha, "alpha")),
      make("div", {}, legend, make("label", { htmlFor: "legend", textContent: "Names in the picture" })),
      this.#backgroundOf(now.background),
      this.#classesOf(now),
      ...(now.masks === null ? [] : [this.#masksOf(now.masks, range)]),
    );
    this.#saving.tell(now);
  }

  #backgroundOf(background) {
    const isColor = background?.startsWith("#") ?? false;
    const kinds = [["", "the picture's own"], ["blur", "blurred"], ["color", "a colour"]];
    // A file's picture can be chosen in the configuration alone.
    if (background === "picture") { kinds.push(["picture", "the configuration's picture"]); }
    const kind = make("select", { id: "background" }, ...kinds.map(([value, words]) => option(value, words, isColor ? "color" : background ?? "")));
    const color = make("input", { type: "color", value: isColor ? background : "#00b140", ariaLabel: "Colour of the background", hidden: !isColor });
    const tell = () => {
      color.hidden = kind.value !== "color";
      if (kind.value !== "picture") {
        this.#change({ background: kind.value === "" ? null : kind.value === "color" ? color.value : kind.value }, kind);
      }
    };
    kind.addEventListener("change", tell);
    color.addEventListener("change", tell);
    return make("div", {}, make("label", { htmlFor: "background", textContent: "Behind the classes" }), kind, color);
  }

  #classesOf(now) {
    const classes = make("fieldset", { className: "classes" }, make("legend", { textContent: `Classes of ${now.model}: drawn, colour, hidden` }));
    const boxes = [];
    const colors = [];
    for (const { name, color, is_background: isBackground, is_shown: isShown, hidden } of now.classes) {
      const box = make("input", { type: "checkbox", name: "class", value: name, checked: isShown });
      boxes.push(box);
      box.addEventListener("change", () => {
        const shown = boxes.filter((one) => one.checked).map((one) => one.value);
        this.#change({ classes: shown }, box);
      });
      const ink = make("input", { type: "color", name: "color", value: color, title: `Colour of ${name}`, ariaLabel: `Colour of ${name}` });
      ink.dataset.class = name;
      colors.push(ink);
      ink.addEventListener("input", () => this.#change({ colors: { [name]: ink.value } }, ink));
      const hide = make("select", { name: "hide", title: `How ${name} is hidden`, ariaLabel: `How ${name} is hidden` });
      const least = WAYS.indexOf(hidden);
      hide.append(option("", "seen", hidden ?? "", { disabled: hidden !== null }));
      hide.append(...WAYS.map((way, at) => option(way, way, hidden, { disabled: at < least })));
      let before = hide.value;
      hide.addEventListener("change", async () => {
        if (await this.#change({ hide: { [name]: hide.value } }, hide) === null) {
          hide.value = before;
          return;
        }
        before = hide.value;
        for (const one of hide.options) { one.disabled ||= one.index < hide.selectedIndex; }
      });
      classes.append(make("div", {}, make("label", {}, box, ` ${name}`), ink, isBackground ? "" : hide));
    }
    const own = make("button", { type: "button", name: "own-colors", textContent: "The model's colours" });
    own.addEventListener("click", async () => {
      const back = await this.#change({ colors: Object.fromEntries(now.classes.map((one) => [one.name, null])) }, own);
      back?.classes.forEach((one, at) => { colors[at].value = one.color; });
    });
    classes.append(make("div", {}, own));
    return classes;
  }

  #masksOf(masks, range) {
    const made = make("fieldset", { className: "masks" }, make("legend", { textContent: "How masks are made; empty for what is in grey" }));
    made.append(make("div", {}, make("label", { htmlFor: "smooth", textContent: "Smoothing" }), ...range("smooth", 0.95, masks.smooth, "smooth")));
    for (const [key, label, otherwise, step] of MASKS) {
      const input = make("input", { id: key, type: "number", min: 0, step, placeholder: otherwise, value: masks[key] ?? "" });
      input.addEventListener("change", () => {
        forgive(this.#looks);
        if (input.validity.badInput) {
          blame(input, input.parentElement, "expected a number");
        } else {
          this.#change({ [key]: input.value === "" ? null : input.valueAsNumber }, input);
        }
      });
      made.append(make("div", {}, make("label", { htmlFor: key, textContent: label }), input));
    }
    return made;
  }

  // --- The model.

  async #loadModels() {
    try {
      this.#showModels(await get(`/models?camera=${this.#camera}`));
    } catch (error) {
      this.#model.replaceChildren(make("p", { className: "bad", textContent: error.message }));
    }
  }

  #showModels({ models, running, loading, failed }) {
    const choice = make("select", { id: "model" }, ...models.map((model) => option(model.name, model.name === running ? `${model.name} (runs now)` : model.name, running)));
    // One from a folder that the configuration names.
    if (!models.some((model) => model.name === running)) { choice.prepend(option("", `${running} (runs now)`, "")); }
    const about = make("dl", { className: "card" });
    const load = make("button", { type: "button", name: "load-model", textContent: "Load" });
    const look = () => {
      const model = models.find((one) => one.name === choice.value);
      about.replaceChildren(...(model === undefined ? [] : card(model)));
      load.disabled = model === undefined || model.error !== null || model.name === running || this.#loading !== null;
    };
    choice.addEventListener("change", look);
    load.addEventListener("click", async () => {
      forgive(this.#model);
      load.disabled = true;
      try {
        this.#tell(JSON.parse(await send(`/models?camera=${this.#camera}`, { model: choice.value })));
      } catch (error) {
        blame(choice, choice.parentElement, error.message);
        load.disabled = false;
      }
    });
    this.#told = make("p", { className: "told" });
    this.#told.setAttribute("role", "status");
    const chosen = make("div", {}, make("label", { htmlFor: "model", textContent: "Model" }), choice, load);
    this.#model.replaceChildren(make("fieldset", {}, make("legend", { textContent: "Model" }), chosen, this.#told, about));
    this.#tell({ running, loading, failed });
    look();
  }

  #tell({ running, loading, failed }) {
    this.#loading = loading;
    this.#told.classList.toggle("bad", failed !== null && loading === null);
    if (loading !== null) {
      this.#told.textContent = `${loading} is being loaded beside ${running}, which goes on.`;
    } else if (failed !== null) {
      this.#told.textContent = `${failed.model} could not be loaded, ${running} goes on: ${failed.why}`;
    } else {
      this.#told.textContent = `${running} runs.`;
    }
  }

  // Once a second: what became of a model.
  async look() {
    if (this.#loading === null) { return; }
    const told = await get(`/models?camera=${this.#camera}`).catch(() => null);
    if (told === null || told.loading !== null) { return; }
    this.#loading = null;
    const had = this.#model.contains(document.activeElement);
    this.#showModels(told);
    if (had) { this.#model.querySelector("select").focus(); }
    if (told.failed === null) { await this.#load(); }
  }
}
