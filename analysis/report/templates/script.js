// Sort: numbers by size whatever follows them, words by alphabet, dashes last; a second click turns it round.
const key = cell => {
  const text = cell.textContent.trim();
  const plain = text.replace(/\u2212/g, "-").replace(/(\d),(?=\d{3})/g, "$1");
  const found = plain.match(/^[+-]?\d[\d.]*(e[+-]?\d+)?(?=$|[\s%])/i);
  return { text, missing: text === "\u2013" || text === "", value: found ? parseFloat(found[0]) : NaN };
};
const compare = (a, b) => isNaN(a.value) || isNaN(b.value)
  ? a.text.localeCompare(b.text, undefined, { numeric: true }) : a.value - b.value;
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button"; button.append(...head.childNodes); head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map(row => ({ row, ...key(row.cells[column]) }));
      rows.sort((a, b) => a.missing - b.missing || (up ? compare(a, b) : compare(b, a)));
      body.append(...rows.map(item => item.row));
    });
  });
}
// Filter: rows that hold every word that is typed.
for (const frame of document.querySelectorAll("[data-filter]")) {
  const input = document.createElement("input");
  input.className = "filter"; input.type = "search"; input.placeholder = "filter rows";
  input.setAttribute("aria-label", `Filter ${frame.getAttribute("aria-label")}`);
  frame.before(input);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of frame.querySelector("tbody").rows) {
      const text = row.textContent.toLowerCase();
      row.classList.toggle("off", !words.every(word => text.includes(word)));
    }
  });
}
// Legends: a click takes an arm out of its figure, a second one brings it back.
const brief = value => Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
  ? value.toExponential(2) : String(+value.toPrecision(3));
for (const figure of document.querySelectorAll("figure")) {
  const hidden = new Set();
  for (const span of figure.querySelectorAll(".legend .key")) {
    const button = document.createElement("button");
    button.type = "button"; button.className = "key"; button.setAttribute("aria-pressed", "true");
    button.dataset.arm = span.dataset.arm; button.append(...span.childNodes); span.replaceWith(button);
    button.addEventListener("click", () => {
      const arm = button.dataset.arm, off = !hidden.has(arm);
      off ? hidden.add(arm) : hidden.delete(arm);
      button.setAttribute("aria-pressed", String(!off));
      for (const part of figure.querySelectorAll("svg [data-arm]"))
        if (part.dataset.arm === arm) part.classList.toggle("off", off);
    });
  }
  // Values: the points of every shown arm nearest to the pointer's place along x.
  const stored = figure.querySelector("script.values"), svg = figure.querySelector("svg");
  if (!stored || !svg) continue;
  const panels = JSON.parse(stored.textContent);
  const tip = document.createElement("div");
  tip.className = "tip"; tip.hidden = true; figure.append(tip);
  const onAxis = (value, log) => log ? Math.log10(value) : value;
  addEventListener("resize", () => { tip.hidden = true; });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), place = figure.getBoundingClientRect();
    const x = (event.clientX - box.x) / box.width, y = (event.clientY - box.y) / box.height;
    const panel = panels.find(p => x >= p.box[0] && x <= p.box[2] && y >= p.box[1] && y <= p.box[3]);
    tip.hidden = true;
    if (!panel) return;
    const [from, to] = panel.x.map(value => onAxis(value, panel.log));
    const at = from + (to - from) * (x - panel.box[0]) / (panel.box[2] - panel.box[0]);
    const lines = [];
    let shown = null;
    for (const [arm, xs, ys] of panel.lines) {
      if (hidden.has(arm)) continue;
      let best = 0, gap = Infinity;
      xs.forEach((value, i) => {
        const away = Math.abs(onAxis(value, panel.log) - at);
        if (away < gap) { gap = away; best = i; }
      });
      shown ??= xs[best];
      lines.push(`${arm}: ${brief(ys[best])}`);
    }
    if (!lines.length) return;
    tip.replaceChildren(...[`x = ${brief(shown)}`, ...lines.slice(0, 16)].map(text => {
      const row = document.createElement("div"); row.textContent = text; return row;
    }));
    tip.hidden = false;
    const left = event.clientX - place.x + 14;
    tip.style.left = `${Math.min(left, place.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${event.clientY - place.y + 14}px`;
  });
}
// Links open the folds that they lead into; paper has no folds.
const reveal = () => {
  const goal = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let node = goal; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
  if (goal) goal.scrollIntoView();
};
addEventListener("hashchange", reveal); reveal();
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach(fold => { fold.open = true; });
});
addEventListener("afterprint", () => opened.forEach(fold => { fold.open = false; }));
