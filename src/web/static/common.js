// What the parts of the page share: questions to segd, and elements.

const SVG = "http://www.w3.org/2000/svg";

async function text(answer) {
  const said = (await answer.text()).trim();
  if (!answer.ok) { throw new Error(said); }
  return said;
}

export async function get(path) {
  return JSON.parse(await text(await fetch(path)));
}

export async function send(path, body) {
  return text(await fetch(path, { method: "POST", body: body === undefined ? undefined : JSON.stringify(body) }));
}

export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function draw(tag, attributes, ...children) {
  const drawn = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) { drawn.setAttribute(name, value); }
  drawn.append(...children);
  return drawn;
}

let mistakes = 0;

// Says beside a field what is wrong with it, to everyone.
export function blame(field, place, words) {
  mistakes += 1;
  const mistake = make("p", { className: "mistake bad", id: `mistake-${mistakes}`, textContent: words });
  mistake.setAttribute("role", "alert");
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", mistake.id);
  place.append(mistake);
}

// Nothing is wrong any more.
export function forgive(root) {
  for (const mistake of root.querySelectorAll(".mistake")) {
    for (const field of document.querySelectorAll(`[aria-describedby="${mistake.id}"]`)) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    }
    mistake.remove();
  }
}
