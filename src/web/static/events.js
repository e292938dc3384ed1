// What has happened: a search in the history, a page at a time, and counts by hour.

const SVG = "http://www.w3.org/2000/svg";
const BAR = 10;
const HEIGHT = 60;

// A figure of bars; each has a height from 0 to 1, or null where nothing is known, and a title.
function figure(caption, all) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${all.length * BAR} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const text = document.createElement("figcaption");
  text.textContent = caption;
  svg.setAttribute("aria-label", caption);
  all.forEach(({ share, told }, at) => {
    const height = (share ?? 1) * (HEIGHT - 2);
    const bar = document.createElementNS(SVG, "rect");
    bar.setAttribute("x", String(at * BAR + 1));
    bar.setAttribute("y", String(HEIGHT - height));
    bar.setAttribute("width", String(BAR - 2));
    bar.setAttribute("height", String(height));
    if (share === null) { bar.setAttribute("class", "unknown"); }
    const title = document.createElementNS(SVG, "title");
    title.textContent = told;
    bar.append(title);
    svg.append(bar);
  });
  const out = document.createElement("figure");
  out.append(text, svg);
  return out;
}

function begun(hours) {
  const most = Math.max(1, ...hours.map((hour) => hour.starts));
  const sum = hours.reduce((all, hour) => all + hour.starts, 0);
  const top = Math.max(0, ...hours.map((hour) => hour.starts));
  return figure(`Begun by hour: ${sum} in ${hours.length} h, ${top} in one hour at most`, hours.map((hour) => ({
    share: hour.starts / most,
    told: `${new Date(hour.hour).toLocaleString()}: ${hour.starts} begun, ${Math.round(hour.dwell_s)} s in what ended`,
  })));
}

const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

// How much of the time something was there, by hour or by minute.
function filled(spans, unit) {
  const known = spans.reduce((all, span) => all + span.known_s, 0);
  if (known === 0) { return null; }
  const there = spans.reduce((all, span) => all + span.occupied_s, 0);
  const unknown = spans.some((span) => span.known_s === 0) ? "; grey: not known" : "";
  return figure(`Something there by ${unit}: ${percent(there / known)} of the time${unknown}`, spans.map((span) => {
    const when = new Date(span[unit]).toLocaleString();
    if (span.known_s === 0) { return { share: null, told: `${when}: not known` }; }
    const share = span.occupied_s / span.known_s;
    return { share, told: `${when}: there ${percent(share)} of the time, ${percent(span.area)} of the zone filled` };
  }));
}

function row(event) {
  const more = [];
  if (event.track !== null) { more.push(`#${event.track}`); }
  if (event.direction !== null) { more.push(`to the ${event.direction}`); }
  if (event.dwell_s > 0) { more.push(`${event.dwell_s.toFixed(1)} s`); }
  const cells = [
    new Date(event.time).toLocaleString(), event.type, event.rule, event.camera, event.zone ?? event.line ?? "",
    event.class, more.join(", "),
  ];
  const line = document.createElement("tr");
  for (const text of cells) {
    const cell = document.createElement("td");
    cell.textContent = text;
    line.append(cell);
  }
  const links = [["picture", "snapshots", event.snapshot], ["clip", "clips", event.clip]];
  for (const [text, folder, name] of links) {
    if (!name) { continue; }
    const link = document.createElement("a");
    link.href = `/events/${folder}/${name}`;
    link.textContent = text;
    line.lastElementChild.append(line.lastElementChild.hasChildNodes() ? ", " : "", link);
  }
  return line;
}

async function ask(path) {
  const answer = await fetch(path);
  if (!answer.ok) { throw new Error((await answer.text()).trim()); }
  return answer.json();
}

// The section: hidden while no history is kept, and asked for when it is opened or a filter changes.
export class Events {
  #root;
  #form;
  #rows;
  #older;
  #said;
  #next = null;

  constructor(root) {
    this.#root = root;
    this.#form = root.querySelector("form");
    this.#rows = root.querySelector("tbody");
    this.#older = root.querySelector(".older");
    this.#said = root.querySelector(".said");
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#search();
    });
    this.#form.addEventListener("change", () => { this.#search(); });
    root.addEventListener("toggle", () => { if (root.open) { this.#search(); } });
    this.#older.addEventListener("click", () => { this.#page(this.#next); });
  }

  place(status) {
    const sinks = status.events?.sinks ?? [];
    this.#root.hidden = !sinks.some((sink) => sink.kind === "history");
    const list = this.#form.elements.namedItem("camera");
    const names = status.cameras.map((camera) => camera.name);
    if (list.options.length !== names.length + 1) {
      list.replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name, name)));
    }
  }

  #filters() {
    const filters = new URLSearchParams(new FormData(this.#form));
    for (const [name, value] of [...filters]) {
      if (value.trim() === "") { filters.delete(name); } else { filters.set(name, value.trim()); }
    }
    return filters;
  }

  async #search() {
    this.#rows.replaceChildren();
    await this.#page(null);
    const filters = this.#filters();
    const since = this.#form.elements.namedItem("since");
    filters.delete("since");
    const hours = Number(since.selectedOptions[0].dataset.hours);
    filters.set("hours", hours);
    try {
      const counts = await ask(`/events/hours.json?${filters}`);
      const spans = hours === 1 ? filled((await ask(`/events/minutes.json?${filters}`)).minutes, "minute") : filled(counts.hours, "hour");
      this.#root.querySelector(".hours").replaceChildren(begun(counts.hours), ...(spans === null ? [] : [spans]));
    } catch (error) {
      this.#said.textContent = error.message;
    }
  }

  async #page(before) {
    const filters = this.#filters();
    if (before !== null) { filters.set("before", before); }
    this.#said.textContent = "";
    try {
      const page = await ask(`/events/history.json?${filters}`);
      this.#rows.append(...page.events.map(row));
      this.#next = page.next;
      if (this.#rows.childElementCount === 0) { this.#said.textContent = "Nothing fits."; }
    } catch (error) {
      this.#said.textContent = error.message;
      this.#next = null;
    }
    this.#older.hidden = this.#next === null;
  }
}
