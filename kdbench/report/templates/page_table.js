// Tables: sorting of every column of every table, and the leaderboard's filters and columns.

/** What a cell is sorted by: a number, text, or null for an empty one. */
function sortKey(cell) {
  if (!cell) return null;
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = cell.textContent.trim();
  return text === "" || text === "–" ? null : text;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // empty cells stay last, whatever the order
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true, sensitivity: "base" }));
}

/** Sort by a column: its better end first, then the other, then as it was. */
function sortBy(table, place, order) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, i) => heading.setAttribute("aria-sort", i === place && order ? order : "none"));
  const sign = order === "descending" ? -1 : 1;
  const body = table.tBodies[0];
  const lines = [...body.rows].map((line) => ({ line, key: sortKey(line.cells[place]), at: Number(line.dataset.at) }));
  lines.sort((a, b) => (order ? compare(a.key, b.key, sign) : 0) || a.at - b.at);
  body.append(...lines.map(({ line }) => line));
}

function setUpSorting(table) {
  [...table.tBodies[0].rows].forEach((line, i) => { line.dataset.at = i; });
  [...table.tHead.rows[0].cells].forEach((heading, place) => {
    const text = heading.textContent;
    const button = element("button", { type: "button" }, text);
    if (heading.title) button.setAttribute("aria-description", heading.title);
    heading.setAttribute("aria-sort", "none");
    heading.replaceChildren(button);
    const first = text.includes("↑") || text.startsWith("Δ") ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      sortBy(table, place, now === "none" ? first : now === first ? second : "");
    });
  });
}

const FILTERS = [["filter", "q"], ["by-pair", "pair"], ["by-method", "method"], ["by-student", "student"]];

function applyFilters(board) {
  const wanted = Object.fromEntries(FILTERS.map(([id, name]) => [name, byId(id) ? byId(id).value : ""]));
  const words = wanted.q.toLowerCase().split(/\s+/).filter(Boolean);
  const ranked = byId("ranked").checked;
  let left = 0;
  for (const line of board.tBodies[0].rows) {
    const { table, method, student } = line.dataset;
    const text = `${line.textContent} ${table} ${line.dataset.row}`.toLowerCase();
    const fits = words.every((word) => text.includes(word)) && (!ranked || "ranked" in line.dataset)
      && (!wanted.pair || table === wanted.pair) && (!wanted.method || method === wanted.method)
      && (!wanted.student || student === wanted.student);
    line.hidden = !fits;
    left += fits;
  }
  const all = board.tBodies[0].rows.length;
  byId("count").textContent = left === all ? `${all} rows. Open one by its method's name.` : `${left} of ${all} rows`;
  remember({ ...wanted, ranked });
}

function setUpFilters(board) {
  for (const [id, name] of FILTERS) {
    const field = byId(id);
    if (!field) continue;
    if (state[name] && (field.tagName !== "SELECT" || [...field.options].some((o) => o.value === state[name]))) field.value = state[name];
    field.addEventListener(field.tagName === "SELECT" ? "change" : "input", () => applyFilters(board));
  }
  byId("ranked").checked = state.ranked === "true";
  byId("ranked").addEventListener("change", () => applyFilters(board));
  const form = byId("filter").form;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { showColumns(board); applyFilters(board); }));
  applyFilters(board);
}

/** Show the columns that are ticked. */
function showColumns(board) {
  const ticked = [...byId("columns").querySelectorAll("input")].map((box) => box.checked);
  for (const line of board.rows) [...line.cells].forEach((cell, i) => cell.classList.toggle("off", !ticked[i]));
}

function setUpColumns(board) {
  const headings = [...board.tHead.rows[0].cells].map((heading) => heading.textContent);
  const main = headings.length - Number(board.dataset.further);
  const narrow = matchMedia("(max-width: 40rem)").matches;
  const needed = (text) => ["#", "Pair", "Method"].includes(text) || text.startsWith("Top-1");
  const boxes = headings.map((text, i) => {
    const checked = i < main && (!narrow || needed(text));
    const box = element("input", { type: "checkbox", checked, onchange: () => showColumns(board) });
    return element("label", {}, box, ` ${text}`);
  });
  byId("columns").querySelector("fieldset").append(...boxes);
  document.addEventListener("click", (event) => { if (!byId("columns").contains(event.target)) byId("columns").open = false; });
  byId("columns").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { byId("columns").open = false; byId("columns").querySelector("summary").focus(); }
  });
  showColumns(board);
}

/** The method's name becomes a button that opens the row; a click anywhere in the row does the same. */
function setUpOpening(board) {
  const place = [...board.tHead.rows[0].cells].findIndex((heading) => heading.textContent === "Method");
  for (const line of board.tBodies[0].rows) {
    const cell = line.cells[place];
    cell.replaceChildren(element("button", { "type": "button", "class": "open", "aria-haspopup": "dialog" }, cell.textContent));
    line.addEventListener("click", (event) => {
      const chosen = getSelection();
      const onLink = event.target.closest("a, button:not(.open)");
      if (!onLink && (event.target.closest("button") || chosen.isCollapsed)) openRow(line.dataset.row);
    });
  }
}

function setUpTables() {
  const board = byId("board");
  if (board) { setUpOpening(board); setUpColumns(board); setUpFilters(board); }
  for (const table of document.querySelectorAll("table.sortable")) setUpSorting(table);
}
