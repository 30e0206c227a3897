"use strict";
// The page without its scripts is whole: tables, figures and notes. These add sorting, filters, charts and details.
// Text from the data reaches the page through textContent alone, so that a name is never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const rowsById = new Map(data.rows.map((row) => [row.id, row]));
const methodStyles = new Map(data.methods.map((method) => [method.name, method]));
const byId = (id) => document.getElementById(id);
const redraws = []; // of every chart that is on the page, for a change of colours
document.documentElement.classList.add("js");

/** An element with attributes and children; children that are text stay text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

/** The state that the address holds, so that a link shows the same: filters, axes, the open row. */
const state = Object.fromEntries(new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : ""));

function remember(changes) {
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === false) delete state[name];
    else state[name] = String(value);
  }
  const text = new URLSearchParams(state).toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

/** `0.27 M` for 272474, as in the tables: three significant digits and a decimal prefix. */
function count(number) {
  const three = (x) => x.toFixed(Math.abs(x) < 10 ? 2 : Math.abs(x) < 100 ? 1 : 0);
  for (const [limit, prefix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= (limit === 1e3 ? limit : 0.1 * limit)) return `${three(number / limit)} ${prefix}`;
  }
  return number.toFixed(0);
}

function seconds(number) {
  if (number < 120) return `${number.toFixed(0)} s`;
  return number < 7200 ? `${(number / 60).toFixed(1)} min` : `${(number / 3600).toFixed(1)} h`;
}

/** A result with its unit, as in the tables. */
function shown(name, value) {
  if (value === undefined || value === null) return "–";
  const unit = data.metrics[name] ? data.metrics[name].unit : "";
  if (unit === "%") return `${value.toFixed(2)} %`;
  if (unit === "nat") return `${Math.abs(value) < 1e5 ? value.toFixed(3) : value.toExponential(2)} nat`;
  if (unit === "ms") return `${value < 0.1 ? value.toFixed(3) : value < 100 ? value.toFixed(2) : value.toFixed(0)} ms`;
  if (unit === "s") return seconds(value);
  return Number.isInteger(value) || Math.abs(value) >= 1000 ? `${count(value)}${unit === "B" ? "B" : ""}` : String(value);
}

/** The same without a unit that stands beside it anyway. */
const bare = (name, value) => shown(name, value).replace(/ (%|nat|ms)$/, "");
const span = (name, [low, high]) => `[${bare(name, low)}, ${bare(name, high)}]`;

function titled(name) {
  const about = data.metrics[name];
  if (!about) return name;
  return about.unit && !about.title.includes("FLOP") ? `${about.title} (${about.unit})` : about.title;
}

/** `row of seed values` -> their mean; null without one. */
function mean(values) {
  const finite = values.filter((value) => Number.isFinite(value));
  return finite.length ? finite.reduce((sum, value) => sum + value, 0) / finite.length : null;
}

const nameOf = (row) => [row.method, row.student].filter(Boolean).join(" · ");
const arrow = (text) => text.replace("->", "→");

/** The mark of a method as a small drawing, for legends and lists. */
function swatch(method, hollow = false) {
  const look = methodStyles.get(method);
  const paths = {
    "circle": "M6 1a5 5 0 1 0 .01 0z", "square": "M1.5 1.5h9v9h-9z", "triangle-up": "M6 1l5.5 9.5h-11z",
    "diamond": "M6 .5L11.5 6 6 11.500 .5 6z", "triangle-down": "M6 11L.5 1.500h11z", "pentagon": "M6 .8l5.300 3.900-2 6.200H2.700l-2-6.200z",
    "triangle-left": "M1 6L10.500.5v11z", "triangle-right": "M11 6L1.500.5v11z",
    "star": "M6 .3l1.500 3.900 4.100.3-3.200 2.700 1 4.100L6 9 2.600 11.300l1-4.100L.4 4.500l4.100-.3z",
  };
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 12 12");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", paths[look ? look.symbol : "star"]);
  const colour = look ? look.colour : "var(--ink)";
  path.setAttribute("style", hollow ? `fill:none;stroke:${colour};stroke-width:1.5` : `fill:${colour}`);
  svg.append(path);
  return svg;
}

/** Buttons that show and hide methods; calls `changed` with those that are hidden. */
function methodButtons(holder, methods, hidden, changed) {
  const press = (event) => {
    const name = event.currentTarget.dataset.method;
    if (!hidden.delete(name)) hidden.add(name);
    event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(name)));
    changed();
  };
  holder.replaceChildren(...methods.map((name) => element(
    "button", { "type": "button", "aria-pressed": String(!hidden.has(name)), "data-method": name, "onclick": press },
    swatch(name), name,
  )));
}

/** Fill a list of choices; the value is kept where it is still among them. */
function fill(select, names, label, value) {
  select.replaceChildren(...names.map((name) => element("option", { value: name }, label(name))));
  if (names.includes(value)) select.value = value;
}

function setUpColours() {
  const button = byId("theme");
  const choices = { "": "Colours: as the system", "light": "Colours: light", "dark": "Colours: dark" };
  const kept = () => { try { return localStorage.getItem("kdbench-colours") || ""; } catch { return ""; } };
  const apply = (value) => {
    if (value) document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    button.textContent = choices[value];
    for (const redraw of redraws) redraw();
  };
  button.addEventListener("click", () => {
    const names = Object.keys(choices);
    const next = names[(names.indexOf(document.documentElement.dataset.theme || "") + 1) % names.length];
    try { localStorage.setItem("kdbench-colours", next); } catch { /* a page from a file may have no storage */ }
    apply(next);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(document.documentElement.dataset.theme || ""));
  apply(kept() in choices ? kept() : "");
}

/** Links within the page scroll without replacing what the address holds. */
function setUpLinks() {
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    link.addEventListener("click", (event) => {
      const target = byId(link.getAttribute("href").slice(1));
      if (!target) return;
      event.preventDefault();
      for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
      target.scrollIntoView();
      target.setAttribute("tabindex", "-1");
      target.focus({ preventScroll: true });
    });
  }
}
