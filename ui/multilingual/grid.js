// The grid: draws what its data says, and of that only the cells in which something changed.
// Every text of the data becomes a text node, so that what a model wrote is never markup.

const make = (tag, style, text) => {
  const made = document.createElement(tag);
  if (style) made.className = style;
  if (text) made.textContent = text;
  return made;
};

const fill = (place, cell, open) => {
  const said = JSON.stringify(cell);
  if (place.said === said) return;
  place.said = said;
  const badges = make("button", "ml-badges");
  badges.type = "button";
  badges.title = "Open";
  badges.setAttribute("aria-label", `Open ${cell.name}: ${cell.badges.map((one) => one.words)}`);
  badges.onclick = open;
  for (const { kind, sign, words } of cell.badges) {
    const badge = make("span", `ml-badge ml-${kind}`);
    const mark = make("span", "", sign);
    mark.ariaHidden = "true";
    badge.append(mark, ` ${words}`);
    badges.append(badge);
  }
  const parts = [make("div", "ml-who", cell.who), badges];
  if (cell.text) {
    const text = make("p", "ml-text", cell.text);
    text.dir = cell.dir;
    text.lang = cell.lang;
    parts.push(text);
  }
  if (cell.below) parts.push(make("p", "ml-numbers", cell.below));
  place.replaceChildren(...parts);
};

const build = (data) => {
  const table = make("table", "ml-grid");
  table.style.setProperty("--columns", data.columns.length);
  const heading = table.createTHead().insertRow();
  heading.append(make("th", "", "Language"));
  for (const column of data.columns) {
    const place = make("th", "", column);
    place.scope = "col";
    heading.append(place);
  }
  const body = table.createTBody();
  for (const row of data.rows) {
    const drawn = body.insertRow();
    const name = make("th");
    name.scope = "row";
    const own = make("span", "ml-own", row.own);
    own.lang = row.code;
    name.append(own);
    if (row.name !== row.own) name.append(make("span", "ml-name", row.name));
    drawn.append(name);
    for (const _ of row.cells) drawn.insertCell();
  }
  return table;
};

export default function ({ parentElement, data, setTriggerValue }) {
  const shape = JSON.stringify([data.columns, data.rows.map((row) => row.code)]);
  let table = parentElement.querySelector("table");
  if (!table || table.shape !== shape) {
    table?.remove();
    table = build(data);
    table.shape = shape;
    parentElement.append(table);
  }
  data.rows.forEach((row, y) => {
    row.cells.forEach((cell, x) => {
      const open = () => setTriggerValue("open", [row.code, x]);
      fill(table.tBodies[0].rows[y].cells[x + 1], cell, open);
    });
  });
}
