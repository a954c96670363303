// The tokens: draws what its data says, and of that only the buttons in which something changed.
// Every text of the data becomes a text node, so that what a model wrote is never markup.

const COLOURS = 8; // in style.css; the next eight experts have the same with another line
const PATIENCE = 150; // milliseconds between two arrow keys that ask for one token only

const make = (tag, style, text) => {
  const made = document.createElement(tag);
  if (style) made.className = style;
  if (text !== undefined) made.textContent = text;
  return made;
};

const visible = (text) =>
  text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "\u00a0") || "∅";

const paint = (expert) => `moe-c${expert % COLOURS} moe-l${Math.floor(expert / COLOURS) % 2}`;

const numbered = (experts) =>
  `${experts.length > 1 ? "experts" : "expert"} ${experts.join(" and ")}`;

const buttonOf = (button, text, experts, layer, pressed) => {
  const said = JSON.stringify([text, experts, layer]);
  if (button.said !== said) {
    button.said = said;
    const half = text.includes("\ufffd");
    button.className = `moe-token ${paint(experts[0])}${half ? " moe-half" : ""}`;
    button.parentElement.className = text.includes("\n") ? "moe-break" : "";
    const what = half ? "part of a character" : `token ${JSON.stringify(text)}`;
    button.title = `${what}: ${numbered(experts)} in layer ${layer}`;
    button.setAttribute("aria-label", button.title);
    button.replaceChildren(
      make("span", "moe-text", visible(text)),
      make("span", "moe-number", experts.join("·")),
    );
  }
  button.setAttribute("aria-pressed", String(pressed));
};

const experts = (opened, layer) => {
  const table = make("table", "moe-table");
  table.append(make("caption", "", "Experts that worked, best first"));
  const heading = table.createTHead().insertRow();
  // Expert 1 is one of them: a place among the chosen must not look like the number of an expert.
  const names = ["Layer", ...opened.layers[0].map((_, n) => (n ? `No. ${n + 1}` : "Best"))];
  const weighed = opened.weights !== null;
  for (const [n, name] of names.entries()) {
    for (const words of n && weighed ? [name, "weight"] : [name]) {
      const place = make("th", "", words);
      place.scope = "col";
      heading.append(place);
    }
  }
  const body = table.createTBody();
  opened.layers.forEach((chosen, number) => {
    const row = body.insertRow();
    if (number === layer) row.className = "moe-here";
    const name = make("th", "", String(number));
    name.scope = "row";
    row.append(name);
    chosen.forEach((expert, n) => {
      const place = row.insertCell();
      place.append(make("span", `moe-chip ${paint(expert)}`, String(expert)));
      if (weighed) row.insertCell().textContent = opened.weights[number][n].toFixed(3);
    });
  });
  return table;
};

const bars = (opened, layer) => {
  const table = make("table", "moe-table moe-bars");
  table.append(make("caption", "", `Scores of the router in layer ${layer}`));
  const worked = new Set(opened.layers[layer]);
  const body = table.createTBody();
  opened.scores.forEach((score, expert) => {
    const row = body.insertRow();
    const name = make("th", "", "");
    name.scope = "row";
    name.append(make("span", worked.has(expert) ? `moe-chip ${paint(expert)}` : "", `${expert}`));
    row.append(name);
    const place = row.insertCell();
    const bar = make("span", worked.has(expert) ? "moe-bar moe-worked" : "moe-bar");
    bar.style.width = `${(100 * score).toFixed(2)}%`;
    place.append(bar);
    row.insertCell().textContent = `${(100 * score).toFixed(1)} %`;
  });
  return table;
};

const detail = (place, opened, layer) => {
  const said = JSON.stringify([opened, layer]);
  if (place.said === said) return;
  place.said = said;
  if (!opened) {
    place.replaceChildren();
    return;
  }
  const half = opened.text.includes("\ufffd") ? ", a part of a character" : "";
  const parts = [make("p", "moe-opened", `Token ${opened.place}: ${visible(opened.text)}${half}`)];
  const tables = make("div", "moe-tables");
  tables.append(experts(opened, layer));
  if (opened.scores) tables.append(bars(opened, layer));
  parts.push(tables);
  const told = opened.weights
    ? "A weight is what the expert's output was multiplied by: the model used it."
    : "This server does not tell the weights.";
  const scored = opened.scores
    ? " A score is a softmax over the router's raw logits, of all experts: it is not the weight."
    : " It does not tell the router's scores.";
  parts.push(make("p", "moe-note", told + scored));
  place.replaceChildren(...parts);
};

const build = (parent) => {
  const root = make("div", "moe-tokens");
  for (const part of ["Prompt", "Reply"]) {
    const box = make("div", "moe-part");
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `Tokens of the ${part.toLowerCase()}; arrow keys move`);
    const flow = make("div", "moe-flow");
    box.append(make("p", "moe-head", part), flow);
    root.append(box);
  }
  const place = make("div", "moe-detail");
  place.setAttribute("aria-live", "polite");
  root.append(place);
  root.places = [];
  root.at = null;
  parent.append(root);
  return root;
};

// The token above or below: of the nearest line, the one that is nearest to the side.
const beside = (places, from, down) => {
  const here = places[from].getBoundingClientRect();
  let best = from;
  let line = null;
  let near = Infinity;
  for (let at = from; at >= 0 && at < places.length; at += down ? 1 : -1) {
    const there = places[at].getBoundingClientRect();
    if (Math.abs(there.top - here.top) < here.height / 2) continue;
    if (line === null) line = there.top;
    if (Math.abs(there.top - line) > here.height / 2) break;
    const far = Math.abs(there.left - here.left);
    if (far < near) [best, near] = [at, far];
  }
  return best;
};

const moved = (places, from, key) => {
  if (key === "ArrowRight") return Math.min(from + 1, places.length - 1);
  if (key === "ArrowLeft") return Math.max(from - 1, 0);
  if (key === "Home") return 0;
  if (key === "End") return places.length - 1;
  if (key === "ArrowDown" || key === "ArrowUp") return beside(places, from, key === "ArrowDown");
  return null;
};

export default function ({ parentElement, data, setTriggerValue }) {
  const root = parentElement.querySelector(".moe-tokens") ?? build(parentElement);
  const [prompt, reply] = root.querySelectorAll(".moe-flow");
  const { places } = root;
  if (root.begin !== data.begin) root.at = null;
  if (root.begin !== data.begin || root.prompt !== data.prompt) {
    for (const flow of [prompt, reply]) flow.replaceChildren(); // the order of what moves
  }
  root.begin = data.begin;
  root.prompt = data.prompt;
  if (root.at === null && data.opened) {
    const at = data.opened.place - data.begin;
    if (at >= 0 && at < data.tokens.length) root.at = at;
  }
  if (root.at !== null && root.at >= data.tokens.length) root.at = null;

  const choose = (at) => {
    root.at = at;
    places.forEach((one, n) => {
      one.tabIndex = n === at ? 0 : -1;
      one.setAttribute("aria-pressed", String(n === at));
    });
    places[at].focus();
    clearTimeout(root.timer);
    root.timer = setTimeout(() => setTriggerValue("place", root.begin + at), PATIENCE);
  };

  while (places.length > data.tokens.length) places.pop().parentElement.remove();
  data.tokens.forEach((text, at) => {
    if (at === places.length) {
      const button = make("button");
      button.type = "button";
      make("span").append(button);
      places.push(button);
    }
    const button = places[at];
    const flow = at + data.begin < data.prompt ? prompt : reply;
    if (button.parentElement.parentElement !== flow) flow.append(button.parentElement);
    button.onclick = () => choose(at);
    button.tabIndex = at === (root.at ?? 0) ? 0 : -1;
    buttonOf(button, text, data.chosen[at], data.layer, at === root.at);
  });
  root.onkeydown = (event) => {
    const from = places.indexOf(event.target.closest("button"));
    const to = from < 0 ? null : moved(places, from, event.key);
    if (to === null) return;
    event.preventDefault();
    if (to !== from) choose(to);
  };
  for (const flow of [prompt, reply]) flow.parentElement.hidden = !flow.childElementCount;
  detail(root.lastElementChild, data.opened, data.layer);
}
