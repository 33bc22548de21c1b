"use strict";
// Draws the attention of attention.html.jinja. A byte of a section's weights is a weight of 0 to FULL, or UNSEEN: the token may not be seen.
const FULL = 250, UNSEEN = 255, SVG = "http://www.w3.org/2000/svg";
const redraw = [];

function make(parent, name, attributes = {}, text) {
  const node = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

const percent = (byte) => byte > FULL ? "not visible" : `${Math.round(100 * byte / FULL)}%`;
const short = (token, most = 15) => token.length > most ? `${token.slice(0, most - 1)}…` : token;

function colour(name) {
  const digits = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
  return [0, 2, 4].map((place) => parseInt(digits.slice(place, place + 2), 16));
}

function start(section) {
  const data = section.dataset, to = JSON.parse(data.to), from = JSON.parse(data.from), heads = Number(data.heads), layers = Number(data.layers);
  const bytes = Uint8Array.from(atob(data.weights), (character) => character.charCodeAt(0));
  const at = (layer, head) => bytes.subarray((layer * heads + head) * to.length * from.length, (layer * heads + head + 1) * to.length * from.length);
  const chosen = { layer: Number(data.layer), head: Number(data.head), token: -1 };
  const cells = [...section.querySelectorAll("td[data-kind]")];
  const kindOf = (layer, head) => cells[layer * heads + head].dataset.kind;

  function paint(canvas, weights) {
    canvas.width = from.length;
    canvas.height = to.length;
    const context = canvas.getContext("2d"), image = context.createImageData(from.length, to.length);
    const back = colour("--back"), full = colour("--c0"), unseen = colour("--unseen");
    weights.forEach((byte, place) => {
      const part = Math.sqrt(byte / FULL);
      const mixed = byte === UNSEEN ? unseen : back.map((channel, index) => channel + part * (full[index] - channel));
      image.data.set([...mixed, 255], 4 * place);
    });
    context.putImageData(image, 0, 0);
  }

  // The small pictures of all heads: buttons, of which Tab reaches the chosen one, and the arrow keys the others.
  const buttons = cells.map((cell, number) => {
    const layer = Math.floor(number / heads), head = number % heads, letter = cell.textContent;
    cell.textContent = "";
    const button = make(cell, "button", { type: "button", "aria-label": `layer ${layer}, head ${head}: ${cell.dataset.kind}` });
    const canvas = make(button, "canvas");
    make(button, "span", { "aria-hidden": "true" }, letter);
    button.addEventListener("click", () => choose(layer, head));
    redraw.push(() => paint(canvas, at(layer, head)));
    return button;
  });
  section.querySelector("table.heads").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const layer = Math.min(layers - 1, Math.max(0, chosen.layer + step[0])), head = Math.min(heads - 1, Math.max(0, chosen.head + step[1]));
    choose(layer, head);
    buttons[layer * heads + head].focus();
  });
  for (const place of section.querySelectorAll("span[data-place]")) {
    const [layer, head] = place.dataset.place.split(" ").map(Number);
    const button = make(place, "button", { type: "button", class: "named" }, place.textContent);
    place.replaceChildren(button);
    button.addEventListener("click", () => {
      choose(layer, head);
      large.scrollIntoView({ block: "nearest" });
    });
  }

  const large = make(section, "div", { class: "large" });
  const title = make(large, "h3", { "aria-live": "polite" });
  const fields = make(large, "p", { class: "fields" });
  function field(name, options, change) {
    const label = make(fields, "label", {}, `${name} `), select = make(label, "select");
    options.forEach((text, number) => make(select, "option", { value: number }, text));
    select.addEventListener("change", () => change(Number(select.value)));
    return select;
  }
  const numbers = (count) => Array.from({ length: count }, (_, number) => `${number}`);
  const layerField = field("Layer", numbers(layers), (layer) => choose(layer, chosen.head));
  const headField = field("Head", numbers(heads), (head) => choose(chosen.layer, head));
  const tokenField = field("Token", ["all tokens", ...to.map((token, number) => `${number}: ${short(token)}`)], (number) => {
    chosen.token = number - 1;
    update();
  });
  const figures = make(large, "div", { class: "pictures" });

  const links = make(figures, "figure"), row = 20, left = 130, right = 290;
  make(links, "figcaption", {}, "Links: what each token at the left looks at");
  const drawn = make(links, "svg:svg", { viewBox: `0 0 420 ${row * Math.max(to.length, from.length) + 4}`, role: "img" });
  const lines = make(drawn, "svg:g"), middle = (place) => row * place + row / 2 + 2;
  const shades = from.map((_, place) => make(drawn, "svg:rect", { x: right + 2, y: row * place + 3, width: 126, height: row - 2, rx: 3, class: "shade" }));
  function names(tokens, x, anchor, change) {
    return tokens.map((token, place) => {
      const name = make(drawn, "svg:text", { x, y: middle(place) + 4, "text-anchor": anchor }, short(token));
      make(name, "svg:title", {}, `${place}: ${token}`);
      if (change) name.addEventListener("mouseenter", () => change(place));
      return name;
    });
  }
  const leftNames = names(to, left - 6, "end", (place) => { chosen.token = place; update(); });
  names(from, right + 6, "start");
  drawn.addEventListener("mouseleave", () => { chosen.token = Number(tokenField.value) - 1; update(); });

  const map = make(figures, "figure"), size = Math.max(3, Math.min(16, Math.floor(1000 / from.length)));
  const edge = 10 + 7 * Math.max(...[...to, ...from].map((token) => short(token).length));
  make(map, "figcaption", {}, "Weights: each row looks at the columns");
  const box = make(map, "div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "picture of the weights" });
  const width = edge + size * from.length + 2, height = edge + size * to.length + 2;
  const grid = make(box, "svg:svg", { viewBox: `0 0 ${width} ${height}`, width, height, style: `width:${width}px`, role: "img" });
  const picture = make(grid, "svg:image", { x: edge, y: edge, width: size * from.length, height: size * to.length, preserveAspectRatio: "none" });
  const hidden = make(grid, "svg:path", { class: "hidden" }), mark = make(grid, "svg:rect", { class: "mark", x: edge, width: size * from.length, height: size });
  if (size >= 10) {
    to.forEach((token, place) => make(grid, "svg:text", { x: edge - 4, y: edge + size * place + size / 2 + 4, "text-anchor": "end" }, short(token)));
    from.forEach((token, place) => {
      const x = edge + size * place + size / 2 + 4;
      make(grid, "svg:text", { x, y: edge - 4, transform: `rotate(-90 ${x} ${edge - 4})` }, short(token));
    });
  }
  const readout = make(map, "p", { class: "quiet" }, "Point at a cell to read its weight.");
  grid.addEventListener("mousemove", (event) => {
    const place = grid.getBoundingClientRect();
    const column = Math.floor((event.clientX - place.left - edge) / size), line = Math.floor((event.clientY - place.top - edge) / size);
    if (column < 0 || line < 0 || column >= from.length || line >= to.length) return;
    readout.textContent = `${to[line]} looks at ${from[column]}: ${percent(at(chosen.layer, chosen.head)[line * from.length + column])}`;
  });

  const words = make(figures, "figure");
  make(words, "figcaption", {}, "In words");
  const scroll = make(words, "div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "table of the strongest weights" });
  const table = make(scroll, "table"), header = make(make(table, "thead"), "tr"), body = make(table, "tbody");
  for (const name of ["Token", "looks most at"]) make(header, "th", { scope: "col" }, name);
  const canvas = document.createElement("canvas");

  function choose(layer, head) {
    Object.assign(chosen, { layer, head });
    update();
    const cell = cells[layer * heads + head], view = cell.closest(".scroll"), end = cell.offsetTop + cell.offsetHeight;
    if (cell.offsetTop < view.scrollTop || end > view.scrollTop + view.clientHeight) view.scrollTop = end - view.clientHeight / 2;
  }

  function update() {
    const weights = at(chosen.layer, chosen.head), one = chosen.token;
    const summary = `layer ${chosen.layer}, head ${chosen.head}: ${kindOf(chosen.layer, chosen.head)}`;
    if (title.textContent !== summary) title.textContent = summary;
    layerField.value = chosen.layer;
    headField.value = chosen.head;
    if (document.activeElement === tokenField) tokenField.value = one + 1;
    buttons.forEach((button, number) => {
      const is = number === chosen.layer * heads + chosen.head;
      button.setAttribute("aria-pressed", is);
      button.tabIndex = is ? 0 : -1;
    });
    drawn.setAttribute("aria-label", `Links of ${summary}; the table beside says them in words`);
    grid.setAttribute("aria-label", `Weights of ${summary}; the table beside says them in words`);
    lines.replaceChildren();
    const sums = from.map(() => 0);
    weights.forEach((byte, place) => {
      const line = Math.floor(place / from.length), column = place % from.length;
      if (byte === UNSEEN || byte < FULL / 100 || (one >= 0 && line !== one)) return;
      make(lines, "svg:line", { x1: left, y1: middle(line), x2: right, y2: middle(column), "stroke-opacity": byte / FULL });
      sums[column] += byte / FULL / (one >= 0 ? 1 : to.length);
    });
    shades.forEach((shade, column) => shade.setAttribute("fill-opacity", 0.45 * sums[column]));
    leftNames.forEach((name, line) => name.setAttribute("class", line === one ? "strong" : one >= 0 ? "other" : ""));
    paint(canvas, weights);
    picture.setAttribute("href", canvas.toDataURL());
    let path = "";
    weights.forEach((byte, place) => {
      if (byte === UNSEEN) path += `M${edge + size * (place % from.length)} ${edge + size * Math.floor(place / from.length)}h${size}v${size}h-${size}z`;
    });
    hidden.setAttribute("d", path);
    mark.setAttribute("y", edge + size * Math.max(one, 0));
    mark.setAttribute("visibility", one >= 0 ? "visible" : "hidden");
    body.replaceChildren();
    to.forEach((token, line) => {
      if (one >= 0 && line !== one) return;
      const own = [...weights.subarray(line * from.length, (line + 1) * from.length)].map((byte, column) => [byte, column]);
      const strongest = own.filter(([byte]) => byte <= FULL).sort((a, b) => b[0] - a[0]).slice(0, one >= 0 ? 12 : 3)
        .filter(([byte], number) => !number || byte >= FULL / 100);
      const entry = make(body, "tr");
      make(entry, "th", { scope: "row" }, token);
      make(entry, "td", {}, strongest.map(([byte, column]) => `${from[column]} ${percent(byte)}`).join(", "));
    });
  }
  redraw.push(update);
}

document.querySelectorAll("section[data-weights]").forEach(start);
const drawAll = () => redraw.forEach((draw) => draw());
drawAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
