// The last hour of one camera as small graphs.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 300;
const HEIGHT = 60;

function graph(title, unit, values, floor) {
  const known = values.filter((value) => value !== null);
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const round = (value) => (value >= 10 ? Math.round(value) : Number(value.toFixed(2)));
  if (known.length === 0) {
    caption.textContent = `${title}: nothing yet`;
    figure.append(caption);
    return figure;
  }
  const top = Math.max(floor, ...known);
  const [now, least, most] = [known[known.length - 1], Math.min(...known), Math.max(...known)];
  caption.textContent = `${title}: ${round(now)} ${unit} now, ${round(least)} to ${round(most)}`;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", caption.textContent);
  let line = "";
  let pen = "M";
  values.forEach((value, at) => {
    if (value === null) { pen = "M"; return; }
    const x = values.length > 1 ? (at / (values.length - 1)) * WIDTH : WIDTH;
    line += `${pen}${x.toFixed(1)} ${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`;
    pen = "L";
  });
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", line);
  svg.append(path);
  figure.append(caption, svg);
  return figure;
}

export async function showGraphs(camera, place) {
  const answer = await fetch("/history.json");
  if (!answer.ok) { throw new Error((await answer.text()).trim()); }
  const all = await answer.json();
  const own = all.cameras[camera];
  if (own === undefined) { return; }
  const reasons = Object.entries(own.inferences_per_second);
  const inferences = own.fps.map((_, at) => reasons.reduce((sum, [, rates]) => sum + rates[at], 0));
  const last = inferences.length - 1;
  const why = reasons.filter(([, rates]) => rates[last] > 0).map(([name, rates]) => `${name} ${rates[last].toFixed(1)}`);
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = `Inferences a second, by reason: ${why.join(", ") || "none"}.`;
  place.replaceChildren(
    graph("Rate", "fps", own.fps, 1),
    graph("From capture to outputs", "ms", own.latency_ms, 10),
    graph("Mask age", "ms", own.mask_age_ms, 10),
    graph("Inferences", "/s", inferences, 1),
    graph("CPU of segd", "cores", all.cpu_cores, 0.5),
    graph("Memory of segd", "MiB", all.rss_mib, 10),
    note,
  );
}
