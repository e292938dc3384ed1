// The page: a card for each camera, filled from /status and /scene.json once a second while somebody looks.

import { Controls } from "./controls.js";
import { Events } from "./events.js";
import { showGraphs } from "./graphs.js";
import { Player } from "./player.js";
import { Saving } from "./saving.js";
import { Zones } from "./zones.js";

const PERIOD_MS = 1000;

const cards = new Map();
let alone = null;
let mayChange = false;
let events = null;

const element = (name) => document.getElementById(name);

async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (answer.status === 401) { location.assign("/login"); }
  if (!answer.ok) { throw new Error(`${path}: ${answer.status} ${(await answer.text()).trim()}`); }
  return answer.json();
}

const milliseconds = (seconds) => (seconds === null || seconds === undefined ? "none" : `${Math.round(seconds * 1000)} ms`);

class Card {
  #root;
  #name;
  #player = null;
  #before = null;
  #controls = null;
  #saving = null;
  #zones = null;

  constructor(name) {
    this.#name = name;
    this.#root = element("camera").content.firstElementChild.cloneNode(true);
    const link = this.#root.querySelector("h2 a");
    link.textContent = name;
    this.#root.setAttribute("aria-label", `Camera ${name}`);
    this.#root.dataset.camera = name;
    const details = this.#root.querySelector(".controls");
    details.addEventListener("toggle", () => {
      if (details.open) { this.#controls ??= new Controls(name, details.querySelector("div"), this.#save()); }
    });
    const places = this.#root.querySelector(".places");
    places.addEventListener("toggle", () => {
      if (places.open) { this.#zones ??= new Zones(name, this.#root, this.#save()); }
      this.#zones?.show(places.open);
    });
    element("cameras").append(this.#root);
  }

  #save() {
    this.#saving ??= new Saving(this.#name, this.#root.querySelector(".saving"));
    return this.#saving;
  }

  // Shown beside others, by itself, or not at all.
  place(alone) {
    const shown = alone === null || alone === this.#name;
    this.#root.hidden = !shown;
    const link = this.#root.querySelector("h2 a");
    link.href = alone === null ? `#${encodeURIComponent(this.#name)}` : "#";
    const isAlone = alone === this.#name || cards.size === 1;
    this.#root.querySelector(".graphs").hidden = !isAlone;
    // One camera's controls at a time: they stand where it is alone.
    for (const part of this.#root.querySelectorAll(".controls, .places")) { part.hidden = !(mayChange && isAlone); }
    this.#zones?.show(mayChange && isAlone && this.#root.querySelector(".places").open);
    link.title = alone === null ? "Show this camera alone" : "Show all cameras";
    if (shown && this.#player === null) {
      const way = (text) => { this.#say("way", text); };
      this.#player = new Player(this.#name, this.#root.querySelector(".picture"), way);
    } else if (!shown && this.#player !== null) {
      this.#player.stop();
      this.#player = null;
    }
  }

  remove() {
    this.#player?.stop();
    this.#root.remove();
  }

  #say(what, text) {
    this.#root.querySelector(`[data-is="${what}"]`).textContent = text;
  }

  tell(status) {
    const now = { at: performance.now(), composed: status.figures.composed };
    if (this.#before !== null && now.at > this.#before.at) {
      const rate = ((now.composed - this.#before.composed) * 1000) / (now.at - this.#before.at);
      this.#say("fps", `${rate.toFixed(1)} fps`);
    }
    this.#before = now;
    this.#say("latency", milliseconds(status.latency_s));
    this.#say("mask-age", milliseconds(status.mask_age_s));
    this.#say("viewers", String(status.clients));
  }

  async look() {
    if (this.#root.hidden) { return; }
    const graphs = this.#root.querySelector(".graphs");
    if (graphs.open && !graphs.hidden) {
      await showGraphs(this.#name, graphs.querySelector("div")).catch(() => {});
    }
    await this.#zones?.look();
    await this.#controls?.look();
    const list = this.#root.querySelector(".seen");
    let lines;
    try {
      const scene = await ask(`/scene.json?camera=${encodeURIComponent(this.#name)}`);
      lines = scene.seen === null ? ["not known: there is no young mask"] : inWords(scene.seen.segments);
    } catch {
      lines = ["not known: no picture went out"];
    }
    const items = lines.map((line) => {
      const item = document.createElement("li");
      item.textContent = line;
      return item;
    });
    list.replaceChildren(...items);
  }
}

// Each class once: its share of the picture, and how many there are where they are told apart.
function inWords(segments) {
  const classes = new Map();
  for (const segment of segments) {
    const sum = classes.get(segment.class) ?? { share: 0, count: 0 };
    sum.share += segment.share;
    sum.count += segment.instance === null ? 0 : 1;
    classes.set(segment.class, sum);
  }
  if (classes.size === 0) { return ["nothing"]; }
  return [...classes].map(([name, { share, count }]) => {
    const percent = share < 0.01 ? "less than 1 %" : `${Math.round(share * 100)} %`;
    return count > 0 ? `${count} x ${name}, ${percent}` : `${name} ${percent}`;
  });
}

function tellHealth(status) {
  const health = element("health");
  const troubles = status.cameras.flatMap((camera) => camera.troubles.map((trouble) => `${camera.name}: ${trouble}`));
  health.textContent = troubles.length === 0 ? "All is well." : `${troubles.length} problem${troubles.length > 1 ? "s" : ""}:`;
  health.classList.toggle("bad", troubles.length > 0);
  const list = element("troubles");
  list.hidden = troubles.length === 0;
  list.replaceChildren(...troubles.map((trouble) => {
    const item = document.createElement("li");
    item.textContent = trouble;
    return item;
  }));
}

function place() {
  const wanted = decodeURIComponent(location.hash.slice(1));
  alone = cards.has(wanted) ? wanted : null;
  element("cameras").classList.toggle("one", alone !== null || cards.size === 1);
  document.title = alone === null ? "segd" : `${alone} - segd`;
  for (const card of cards.values()) { card.place(alone); }
}

async function refresh() {
  let status;
  try {
    status = await ask("/status");
  } catch (error) {
    const health = element("health");
    health.textContent = `segd does not answer: ${error.message}`;
    health.classList.add("bad");
    return;
  }
  const names = status.cameras.map((camera) => camera.name);
  const changed = names.some((name) => !cards.has(name)) || cards.size !== names.length;
  for (const [name, card] of cards) {
    if (!names.includes(name)) { card.remove(); cards.delete(name); }
  }
  for (const camera of status.cameras) {
    if (!cards.has(camera.name)) { cards.set(camera.name, new Card(camera.name)); }
    cards.get(camera.name).tell(camera);
  }
  if (changed) { place(); }
  tellHealth(status);
  events ??= new Events(element("events"));
  events.place(status);
  await Promise.all([...cards.values()].map((card) => card.look()));
  const log = element("log");
  if (log.open && !log.hidden) {
    const answer = await fetch("/log");
    const place = log.querySelector("pre");
    const follows = place.scrollTop + place.clientHeight >= place.scrollHeight - 4;
    place.textContent = await answer.text();
    if (follows) { place.scrollTop = place.scrollHeight; }
  }
}

async function tellUser() {
  const session = await ask("/session");
  if (session.user !== null) {
    element("user").textContent = session.user;
    element("logout").hidden = false;
  }
  mayChange = session.may_change;
  element("log").hidden = !mayChange;
  place();
}

async function run() {
  tellUser().catch(() => {});
  for (;;) {
    if (!document.hidden) { await refresh(); }
    await new Promise((resolve) => { setTimeout(resolve, PERIOD_MS); });
  }
}

window.addEventListener("hashchange", place);
run();
