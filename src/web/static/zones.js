// Zones and lines of one camera, drawn on its live picture by pointer or by keyboard. Points are shares of the picture's
// width and height, as in the configuration.

import { blame, draw, forgive, get, make, send } from "./common.js";

// How far an arrow key moves a point: as it is, with Shift, with Ctrl.
const STEP = 0.01;
const COARSE = 0.05;
const FINE = 0.001;
// How far from a point, in pixels, it is still touched.
const REACH = 22;

const HELP = "Arrow keys move the point by 1 %, with Shift by 5 %, with Ctrl by 0.1 %. A adds a point, N and P go to the next and "
  + "the previous one, Delete removes it. C closes a zone, Enter applies it, Escape cancels. With mouse or finger: tap to add "
  + "points, tap the first one to close, drag to move; drag the middle of a side to bend it.";

// Keys of a zone beside its name, its points and its classes: what they are called, and what they are if nothing is said.
const NUMBERS = [
  ["enter", "There from this share of the zone on", "0.01"],
  ["leave", "Gone below this share", "half of that"],
  ["after_ms", "Counts after, ms", "0"],
  ["dwell_s", "Told once more after, s", "never"],
  ["at_most", "Told of more regions than", "no limit"],
  ["none_for_s", "Told if absent for, s", "never"],
  ["min_region", "Smallest region, share of the picture", "0.001"],
];

const clamp = (share) => Math.round(Math.min(1, Math.max(0, share)) * 1e4) / 1e4;
const percent = (share) => `${Number((share * 100).toFixed(1))} %`;
const middle = (a, b) => [clamp((a[0] + b[0]) / 2), clamp((a[1] + b[1]) / 2)];
const key = (kind) => (kind === "zone" ? "polygon" : "points");
const list = (kind) => `${kind}s`;

export class Zones {
  #camera;
  #article;
  #root;
  #saving;
  #said;
  #board;
  #canvas;
  #box = { left: 0, top: 0, width: 0, height: 0 };
  #all = { zones: [], lines: [] };
  #visualize = "overlay";
  // What is being drawn: its kind, the name that it has in force, its points, and whether more are to come.
  #draft = null;
  #at = 0;
  #drag = null;
  #form = null;
  #isShown = false;

  constructor(camera, article, saving) {
    this.#camera = encodeURIComponent(camera);
    this.#article = article;
    this.#root = article.querySelector(".places div");
    this.#saving = saving;
    this.#said = make("p", { className: "told" });
    this.#said.setAttribute("role", "status");
    this.#canvas = draw("svg", { "aria-hidden": "true" });
    this.#board = make("div", { className: "board", hidden: true }, this.#canvas);
    const stage = article.querySelector(".stage");
    stage.append(this.#board);
    new ResizeObserver(() => this.#draw()).observe(stage);
    for (const [name, act] of [["pointerdown", this.#press], ["pointermove", this.#move], ["pointerup", this.#release], ["pointercancel", this.#release], ["keydown", this.#type]]) {
      this.#board.addEventListener(name, act.bind(this));
    }
    this.#load();
  }

  async #load() {
    try {
      this.#saving.tell(await get(`/controls?camera=${this.#camera}`));
      this.#take(await get(`/zones?camera=${this.#camera}`));
      this.#showList();
    } catch (error) {
      this.#root.replaceChildren(make("p", { className: "bad", textContent: error.message }));
    }
  }

  show(isShown) {
    this.#isShown = isShown;
    this.#article.classList.toggle("drawing", isShown && this.#draft !== null);
    this.#draw();
  }

  // Once a second: what is there now.
  async look() {
    if (!this.#isShown) { return; }
    try {
      const told = await get(`/zones?camera=${this.#camera}`);
      this.#visualize = told.visualize;
      for (const place of this.#root.querySelectorAll("[data-zone]")) {
        place.textContent = inWords(told.now.filter((one) => one.zone === place.dataset.zone));
      }
    } catch { /* The next second tells. */ }
    this.#draw();
  }

  #take(told) {
    this.#all = { zones: told.zones, lines: told.lines };
    this.#visualize = told.visualize;
    this.#draw();
  }

  #id(name) { return `place-${this.#camera}-${name}`; }

  #tell(words) { this.#said.textContent = words; }

  // --- The list.

  #showList(focus) {
    this.#draft = null;
    this.#form = null;
    this.#article.classList.remove("drawing");
    const items = [];
    for (const kind of ["zone", "line"]) {
      for (const place of this.#all[list(kind)]) {
        const edit = make("button", { type: "button", textContent: "Edit", ariaLabel: `Edit ${kind} ${place.name}` });
        edit.dataset.edit = place.name;
        edit.addEventListener("click", () => this.#begin(kind, place));
        const remove = make("button", { type: "button", textContent: "Delete", ariaLabel: `Delete ${kind} ${place.name}` });
        remove.addEventListener("click", () => this.#remove(kind, place.name));
        const now = make("span", { className: "note" });
        if (kind === "zone") { now.dataset.zone = place.name; }
        const what = kind === "zone" ? `zone of ${place.polygon.length} points` : "line";
        items.push(make("li", {}, make("span", {}, make("b", { textContent: place.name }), ` ${what} `, now), edit, remove));
      }
    }
    if (items.length === 0) { items.push(make("li", { className: "note", textContent: "None yet." })); }
    const add = (kind) => {
      const button = make("button", { type: "button", name: `add-${kind}`, textContent: `Add a ${kind}` });
      button.addEventListener("click", () => this.#begin(kind, null));
      return button;
    };
    this.#root.replaceChildren(make("ul", {}, ...items), make("p", { className: "tools" }, add("zone"), add("line")), this.#said);
    this.#draw();
    const next = [...this.#root.querySelectorAll("[data-edit]")].find((button) => button.dataset.edit === focus);
    if (focus !== undefined) { (next ?? this.#root.querySelector("[name=add-zone]")).focus(); }
  }

  async #remove(kind, name) {
    const rest = { ...this.#all, [list(kind)]: this.#all[list(kind)].filter((place) => place.name !== name) };
    try {
      await this.#put(rest);
      this.#showList(name);
      this.#tell(`The ${kind} ${name} is deleted.`);
    } catch (error) {
      this.#tell(error.message);
    }
  }

  async #put(places) {
    const told = JSON.parse(await send(`/zones?camera=${this.#camera}`, places));
    this.#take(told);
    this.#saving.tell(told);
  }

  // --- The form.

  async #begin(kind, place) {
    let names = [];
    try {
      const controls = await get(`/controls?camera=${this.#camera}`);
      names = controls.classes.filter((one) => !one.is_background).map((one) => one.name);
    } catch (error) {
      this.#tell(error.message);
      return;
    }
    const points = place === null ? [] : place[key(kind)].map((point) => [...point]);
    this.#draft = { kind, was: place?.name ?? null, points, isOpen: place === null };
    this.#at = 0;
    this.#showForm(kind, place ?? {}, names);
    this.#article.classList.add("drawing");
    this.#draw();
    this.#tell(place === null ? `A new ${kind}: press A for its first point, or tap the picture.` : this.#where());
    this.#article.querySelector(".stage").scrollIntoView({ block: "nearest" });
    this.#board.focus();
  }

  #showForm(kind, place, names) {
    const field = (name, label, input) => {
      input.name = name;
      input.id = this.#id(name);
      return make("div", {}, make("label", { htmlFor: input.id, textContent: label }), input);
    };
    const button = (label, act) => {
      const made = make("button", { type: "button", textContent: label });
      made.addEventListener("click", () => { act(); this.#draw(); });
      return made;
    };
    const share = (name, label, axis) => {
      const input = make("input", { type: "number", min: 0, max: 100, step: 0.1 });
      input.addEventListener("change", () => {
        if (this.#draft.points.length === 0 || !Number.isFinite(input.valueAsNumber)) { return; }
        this.#draft.points[this.#at][axis] = clamp(input.valueAsNumber / 100);
        this.#tell(this.#where());
        this.#draw();
      });
      return field(name, label, input);
    };
    const tools = make("div", { className: "tools" }, button("Add a point", () => this.#add()), button("Previous", () => this.#go(-1)), button("Next", () => this.#go(1)), button("Delete the point", () => this.#drop()));
    if (kind === "zone") { tools.append(button("Close", () => this.#close())); }
    const points = make("fieldset", { className: "points" }, make("legend", { textContent: "Points" }), tools, share("across", "Across, %", 0), share("down", "Down, %", 1));

    const classes = make("fieldset", { className: "looked-for" }, make("legend", { textContent: "Classes; none for all that may be told" }));
    for (const name of names) {
      const chosen = place.classes?.some((one) => one.toLowerCase() === name.toLowerCase()) ?? false;
      classes.append(make("label", {}, make("input", { type: "checkbox", name: "of-class", value: name, checked: chosen }), ` ${name}`));
    }
    const number = (name, label, otherwise) => field(name, `${label} (${name})`, make("input", { type: "number", step: "any", placeholder: otherwise, value: place[name] ?? "" }));
    const choice = (name, label, options) => {
      const select = make("select", {}, ...options.map(([value, words]) => make("option", { value, textContent: words, selected: (place[name] ?? "") === value })));
      return field(name, `${label} (${name})`, select);
    };
    const rules = make("fieldset", { className: "rules" }, make("legend", { textContent: "When it is told; empty for what is in grey" }));
    if (kind === "zone") {
      rules.append(...NUMBERS.map((each) => number(...each)));
      rules.append(choice("inside", "A track is in by", [["", "footing: where it stands"], ["centroid", "centroid: its middle"], ["overlap", "overlap: half of it"]]));
    } else {
      rules.append(choice("direction", "Counts", [["", "both ways"], ["left", "to the left alone"], ["right", "to the right alone"]]));
      rules.append(number("margin", "Distance to be on a side, picture heights", "0.01"));
    }
    const cancel = make("button", { type: "button", textContent: "Cancel" });
    cancel.addEventListener("click", () => this.#cancel());
    this.#form = make(
      "form",
      { noValidate: true, autocomplete: "off" },
      this.#said,
      points,
      make("details", {}, make("summary", { textContent: "Keys, mouse and finger" }), make("p", { className: "note", id: this.#id("help"), textContent: HELP })),
      field("name", "Name: letters, digits, - and _", make("input", { value: place.name ?? "" })),
      classes,
      rules,
      make("div", { className: "tools" }, make("button", { textContent: "Apply" }), cancel),
    );
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#apply();
    });
    this.#root.replaceChildren(this.#form);
  }

  #cancel() {
    this.#showList(this.#draft.was ?? "");
    this.#tell("Cancelled: nothing was changed.");
  }

  // The place as the form has it; the field that is no number if one isn't.
  #read() {
    const { kind, points } = this.#draft;
    const fields = this.#form.elements;
    const place = { name: fields.name.value.trim(), [key(kind)]: points };
    const chosen = [...this.#form.querySelectorAll("[name=of-class]:checked")].map((box) => box.value);
    if (chosen.length > 0) { place.classes = chosen; }
    for (const field of this.#form.querySelectorAll(".rules input, .rules select")) {
      if (field.validity.badInput) { return { wrong: field }; }
      if (field.value === "") { continue; }
      place[field.name] = field.tagName === "SELECT" ? field.value : field.valueAsNumber;
    }
    return { place };
  }

  async #apply() {
    forgive(this.#form);
    const { place, wrong } = this.#read();
    if (wrong) {
      blame(wrong, wrong.parentElement, "expected a number");
      wrong.focus();
      return;
    }
    const { kind, was } = this.#draft;
    const others = this.#all[list(kind)];
    const at = others.findIndex((other) => other.name === was);
    const places = others.map((other, index) => (index === at ? place : other));
    if (at < 0) { places.push(place); }
    try {
      await this.#put({ ...this.#all, [list(kind)]: places });
    } catch (error) {
      this.#blame(error.message);
      return;
    }
    this.#showList(place.name);
    this.#tell(`The ${kind} ${place.name} is in force.`);
  }

  // What the configuration's words speak of stands at their beginning: `zone drive: enter = 7, expected ...`.
  #blame(words) {
    const name = words.match(/^(?:zone|line) [^:]*: (\w+)/)?.[1];
    const named = name === undefined ? null : this.#form.elements.namedItem(name);
    if (name === "polygon" || name === "points") {
      blame(this.#board, this.#form.querySelector(".points"), words);
      this.#board.focus();
    } else if (name === "classes") {
      const classes = this.#form.querySelector(".looked-for");
      blame(classes, classes, words);
      classes.querySelector("input")?.focus();
    } else {
      const field = named ?? this.#form.elements.name;
      blame(field, field.parentElement, words);
      field.focus();
    }
  }

  // --- The points.

  #where() {
    const { points } = this.#draft;
    if (points.length === 0) { return "No point yet."; }
    const [x, y] = points[this.#at];
    return `Point ${this.#at + 1} of ${points.length}: ${percent(x)} across, ${percent(y)} down.`;
  }

  #add(point) {
    const { kind, points, isOpen } = this.#draft;
    if (kind === "line" && points.length === 2) {
      this.#tell("A line has two points.");
      return;
    }
    if (isOpen) {
      const last = points.at(-1);
      const beside = () => (last === undefined ? [0.5, 0.5] : [clamp(last[0] > 0.85 ? last[0] - 0.1 : last[0] + 0.1), last[1]]);
      points.push(point ?? beside());
      this.#at = points.length - 1;
      if (kind === "line" && points.length === 2) { this.#draft.isOpen = false; }
    } else {
      const next = points[(this.#at + 1) % points.length];
      points.splice(this.#at + 1, 0, point ?? middle(points[this.#at], next));
      this.#at += 1;
    }
    this.#tell(`Added. ${this.#where()}`);
  }

  #go(by) {
    const count = this.#draft.points.length;
    if (count > 0) { this.#at = (this.#at + by + count) % count; }
    this.#tell(this.#where());
  }

  #drop() {
    const { kind, points } = this.#draft;
    if (points.length === 0) { return; }
    points.splice(this.#at, 1);
    if (points.length < (kind === "zone" ? 3 : 2)) { this.#draft.isOpen = true; }
    this.#at = Math.max(0, this.#at - 1);
    this.#tell(`Deleted. ${this.#where()}`);
  }

  #close() {
    if (this.#draft.points.length < 3) {
      this.#tell("A zone has three points at least.");
      return;
    }
    this.#draft.isOpen = false;
    this.#tell(`Closed: ${this.#draft.points.length} points. Enter applies the zone.`);
  }

  #shift(x, y, event) {
    if (this.#draft.points.length === 0) { this.#add(); }
    const step = event.shiftKey ? COARSE : event.ctrlKey ? FINE : STEP;
    const point = this.#draft.points[this.#at];
    [point[0], point[1]] = [clamp(point[0] + x * step), clamp(point[1] + y * step)];
    this.#tell(this.#where());
  }

  #type(event) {
    if (this.#draft === null || event.altKey || event.metaKey) { return; }
    const closes = () => (this.#draft.kind === "zone" && this.#draft.isOpen ? this.#close() : this.#apply());
    const acts = {
      ArrowLeft: () => this.#shift(-1, 0, event),
      ArrowRight: () => this.#shift(1, 0, event),
      ArrowUp: () => this.#shift(0, -1, event),
      ArrowDown: () => this.#shift(0, 1, event),
      a: () => this.#add(),
      Insert: () => this.#add(),
      n: () => this.#go(1),
      PageDown: () => this.#go(1),
      p: () => this.#go(-1),
      PageUp: () => this.#go(-1),
      Delete: () => this.#drop(),
      Backspace: () => this.#drop(),
      c: () => (this.#draft.kind === "zone" ? this.#close() : this.#tell("A line has two points.")),
      Enter: closes,
      Escape: () => this.#cancel(),
    };
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!Object.hasOwn(acts, name) || (event.ctrlKey && !name.startsWith("Arrow"))) { return; }
    event.preventDefault();
    acts[name]();
    this.#draw();
  }

  #pointed(event) {
    const rect = this.#board.getBoundingClientRect();
    return [clamp((event.clientX - rect.left) / rect.width), clamp((event.clientY - rect.top) / rect.height)];
  }

  // Which of some points an event is at, the nearest one.
  #near(event, points) {
    const [x, y] = this.#pointed(event);
    const far = points.map((point) => Math.hypot((point[0] - x) * this.#box.width, (point[1] - y) * this.#box.height));
    const best = far.indexOf(Math.min(...far));
    return best >= 0 && far[best] <= REACH ? best : null;
  }

  #sides() {
    const { kind, points, isOpen } = this.#draft;
    if (kind !== "zone" || isOpen) { return []; }
    return points.map((point, at) => middle(point, points[(at + 1) % points.length]));
  }

  #press(event) {
    if (this.#draft === null || event.button !== 0) { return; }
    event.preventDefault();
    this.#board.focus({ preventScroll: true });
    const { points, isOpen, kind } = this.#draft;
    const known = this.#near(event, points);
    const side = known === null ? this.#near(event, this.#sides()) : null;
    let closes = false;
    if (known !== null) {
      closes = known === 0 && isOpen && kind === "zone" && points.length >= 3;
      this.#at = known;
    } else if (side !== null) {
      this.#at = side;
      this.#add(this.#pointed(event));
    } else if (isOpen) {
      this.#add(this.#pointed(event));
    } else {
      return;
    }
    this.#drag = { id: event.pointerId, from: [event.clientX, event.clientY], moves: false, closes };
    this.#board.setPointerCapture(event.pointerId);
    this.#draw();
  }

  #move(event) {
    if (this.#drag?.id !== event.pointerId || this.#draft === null) { return; }
    const far = Math.hypot(event.clientX - this.#drag.from[0], event.clientY - this.#drag.from[1]);
    this.#drag.moves ||= far > 4;
    if (!this.#drag.moves) { return; }
    this.#draft.points[this.#at] = this.#pointed(event);
    this.#draw();
  }

  #release(event) {
    if (this.#drag?.id !== event.pointerId) { return; }
    const { moves, closes } = this.#drag;
    this.#drag = null;
    if (this.#draft === null) { return; }
    if (closes && !moves && event.type === "pointerup") { this.#close(); } else { this.#tell(this.#where()); }
    this.#draw();
  }

  // --- The picture.

  // Where the camera's picture is within the stage: video keeps its shape in a box of another one.
  #fit() {
    const stage = this.#article.querySelector(".stage").getBoundingClientRect();
    const shown = this.#article.querySelector(".picture video, .picture img");
    const outer = (shown ?? this.#article.querySelector(".picture")).getBoundingClientRect();
    const [width, height] = [shown?.videoWidth || shown?.naturalWidth || outer.width, shown?.videoHeight || shown?.naturalHeight || outer.height];
    const scale = Math.min(outer.width / width, outer.height / height) || 0;
    // Side by side, the camera's own picture is on the left.
    const half = this.#visualize === "side-by-side" ? 0.5 : 1;
    this.#box = {
      left: outer.left - stage.left + (outer.width - width * scale) / 2,
      top: outer.top - stage.top + (outer.height - height * scale) / 2,
      width: width * scale * half,
      height: height * scale,
    };
    for (const [side, pixels] of Object.entries(this.#box)) { this.#board.style[side] = `${pixels}px`; }
    this.#canvas.setAttribute("viewBox", `0 0 ${this.#box.width} ${this.#box.height}`);
  }

  #draw() {
    this.#board.hidden = !this.#isShown;
    if (!this.#isShown) { return; }
    this.#fit();
    const parts = [];
    for (const kind of ["zone", "line"]) {
      for (const place of this.#all[list(kind)]) {
        if (this.#draft?.kind === kind && this.#draft.was === place.name) { continue; }
        parts.push(...this.#shape(kind, place[key(kind)], true, "place"), this.#name(place.name, place[key(kind)]));
      }
    }
    const board = this.#board;
    board.classList.toggle("open", this.#draft !== null);
    if (this.#draft === null) {
      for (const name of ["tabindex", "role", "aria-label"]) { board.removeAttribute(name); }
    } else {
      const { kind, was, points, isOpen } = this.#draft;
      board.tabIndex = 0;
      board.setAttribute("role", "application");
      board.setAttribute("aria-label", `Points of ${was === null ? `a new ${kind}` : `${kind} ${was}`}`);
      if (!board.hasAttribute("aria-invalid")) { board.setAttribute("aria-describedby", this.#id("help")); }
      parts.push(...this.#shape(kind, points, !isOpen, "draft"));
      for (const [x, y] of this.#sides().map((point) => this.#pixel(point))) {
        parts.push(draw("circle", { class: "side", cx: x, cy: y, r: 4 }));
      }
      points.forEach((point, at) => {
        const [x, y] = this.#pixel(point);
        // The point that keys move is the square one.
        parts.push(at === this.#at
          ? draw("rect", { class: "point at", x: x - 9, y: y - 9, width: 18, height: 18 })
          : draw("circle", { class: "point", cx: x, cy: y, r: 7 }));
        parts.push(this.#text(String(at + 1), x, y, 16));
      });
      this.#fill();
    }
    this.#canvas.replaceChildren(...parts);
  }

  // The fields of the point that is moved.
  #fill() {
    const point = this.#draft.points[this.#at];
    ["across", "down"].forEach((name, axis) => {
      const field = this.#form?.elements[name];
      if (!field) { return; }
      field.disabled = point === undefined;
      if (document.activeElement !== field) { field.value = point === undefined ? "" : Number((point[axis] * 100).toFixed(2)); }
    });
  }

  #pixel([x, y]) { return [x * this.#box.width, y * this.#box.height]; }

  // Twice, the wider one darker: it can be told from any picture.
  #shape(kind, points, isClosed, style) {
    const corners = points.map((point) => this.#pixel(point).map((pixels) => pixels.toFixed(1)).join(",")).join(" ");
    const tag = kind === "zone" && isClosed ? "polygon" : "polyline";
    const parts = ["under", "over"].map((layer) => draw(tag, { class: `${style} ${layer}`, points: corners }));
    if (kind === "line" && points.length === 2) {
      const [[x, y], [toX, toY]] = points.map((point) => this.#pixel(point));
      const length = Math.hypot(toX - x, toY - y) || 1;
      const [across, down] = [((y - toY) / length) * 22, ((toX - x) / length) * 22];
      const [midX, midY] = [(x + toX) / 2, (y + toY) / 2];
      parts.push(this.#text("right", midX + across, midY + down, 5), this.#text("left", midX - across, midY - down, 5));
    }
    return parts;
  }

  #name(name, points) {
    const top = points.reduce((best, point) => (point[1] < best[1] ? point : best));
    const [x, y] = this.#pixel(top);
    return this.#text(name, Math.min(x, this.#box.width - 30), y, y < 30 ? 20 : -8);
  }

  #text(words, x, y, below) {
    return draw("text", { x: Math.max(14, Math.min(x, this.#box.width - 14)), y: Math.max(14, Math.min(y + below, this.#box.height - 4)) }, words);
  }
}

// What of a zone is known, of those classes that are there.
function inWords(known) {
  if (known.length === 0 || known.every((one) => one.occupied === null)) { return "not known"; }
  const there = known.filter((one) => one.occupied);
  if (there.length === 0) { return "nothing there"; }
  return there.map((one) => `${one.class} there: ${one.tracks > 0 ? `${one.tracks}, ` : ""}${percent(one.area)}`).join("; ");
}
