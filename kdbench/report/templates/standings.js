"use strict";
(() => {
  const root = document.documentElement;
  const find = document.getElementById("find");
  const status = document.getElementById("status");
  const ranked = document.getElementById("ranked");
  const boards = [...document.querySelectorAll(".board")];
  const rows = boards.flatMap((board) => [...board.querySelectorAll("tbody tr")]);
  const words = new Map(rows.map((row) => [row, [1, 2, 3].map((i) => row.cells[i].textContent).join(" ").toLowerCase()]));

  function filter() {
    const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = wanted.every((word) => words.get(row).includes(word))
        && (!status.value || row.dataset.status === status.value)
        && (!ranked.checked || "ranked" in row.dataset);
      row.hidden = !fits;
      count += fits;
    }
    for (const board of boards) board.hidden = !board.querySelector("tbody tr:not([hidden])");
    document.getElementById("shown").textContent = `${count} of ${rows.length} rows`;
    const kept = new URLSearchParams();
    if (find.value) kept.set("find", find.value);
    if (status.value) kept.set("status", status.value);
    if (ranked.checked) kept.set("ranked", "1");
    history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname + location.search);
  }

  // Rows without a value in the column stay last in both directions.
  function sort(heading) {
    const down = heading.getAttribute("aria-sort") === "ascending";
    const column = heading.cellIndex;
    const numeric = heading.classList.contains("num");
    const body = heading.closest("table").tBodies[0];
    const value = (row) => {
      const cell = row.cells[column];
      if (numeric) return "key" in cell.dataset ? Number(cell.dataset.key) : null;
      return cell.textContent.trim().toLowerCase();
    };
    const order = [...body.rows].map((row, place) => ({ row, place, value: value(row) }));
    order.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.place - b.place;
      const gap = numeric ? a.value - b.value : a.value.localeCompare(b.value, "en");
      return (down ? -gap : gap) || a.place - b.place;
    });
    body.append(...order.map((item) => item.row));
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  const button = document.getElementById("theme");
  const dark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  button.hidden = false;
  name();

  for (const heading of document.querySelectorAll(".board th")) heading.firstElementChild.addEventListener("click", () => sort(heading));
  const form = document.getElementById("filters");
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  const kept = new URLSearchParams(location.hash.slice(1));
  find.value = kept.get("find") || "";
  status.value = [...status.options].some((o) => o.value === kept.get("status")) ? kept.get("status") : "";
  ranked.checked = kept.has("ranked");
  filter();
})();
