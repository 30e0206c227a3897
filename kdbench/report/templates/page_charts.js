// Charts: the Pareto explorer and training curves. plotly.js draws; what it shows can also be reached without it.

const LOGARITHMIC = new Set(["", "B", "FLOP", "ms", "s"]);
const touch = matchMedia("(pointer: coarse)").matches;
const CONFIG = {
  responsive: true, displaylogo: false, showTips: false, showLink: false, plotlyServerURL: "", displayModeBar: touch ? false : "hover",
  modeBarButtons: [["toImage", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
};

/** A colour of the page as plotly reads it, in the colours that are on. */
function colour(variable) {
  const probe = element("span", { style: `color: var(${variable})` });
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Text for plotly, which would read some tags and entities as markup. */
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function layout(x, y) {
  const ink = colour("--ink"), quiet = colour("--quiet"), line = colour("--line");
  const axis = (own) => ({
    gridcolor: line, linecolor: quiet, tickcolor: line, zeroline: false, automargin: true, ticks: "outside", ticklen: 4,
    ...own, title: { text: plain(own.title), standoff: 12, font: { size: 13 } },
  });
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 56, r: 16, t: 30, b: 48 }, showlegend: false,
    modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink },
    font: { family: 'system-ui, "Segoe UI", Roboto, Arial, sans-serif', size: 12, color: ink }, hovermode: "closest",
    dragmode: touch ? false : "zoom", xaxis: axis({ showgrid: false, ...x }), yaxis: axis(y),
    hoverlabel: { bgcolor: colour("--raised"), bordercolor: line, font: { color: ink, size: 12.5 }, align: "left" },
  };
}

const better = (name) => (data.metrics[name].direction === "max" ? 1 : -1);

/** Which points no other beats: a point is beaten by one that is nowhere worse and somewhere better; equals stay. */
function onFront(points, x, y) {
  const turned = points.map((p) => [p.values[x] * better(x), p.values[y] * better(y)]);
  return turned.map(([a, b]) => !turned.some(([c, d]) => c >= a && d >= b && (c > a || d > b)));
}

const isLatency = (name) => name.startsWith("latency");
const has = (row, name) => Number.isFinite(row.values[name]) && (!isLatency(name) || row.comparable);

const explorer = { hidden: new Set(), points: [] };

function explorerAxes() {
  const x = byId("axis-x").value, y = byId("axis-y").value;
  const can = (name) => data.rows.every((row) => !has(row, name) || row.values[name] > 0);
  for (const [name, box] of [[x, byId("log-x")], [y, byId("log-y")]]) {
    box.disabled = !can(name);
    if (box.disabled) box.checked = false;
  }
  return { x, y, logX: byId("log-x").checked, logY: byId("log-y").checked };
}

/** Rows of equal cost side by side, so that they do not hide each other: the best in the middle. */
function sideways(points, x, y, log, range) {
  const seen = new Map();
  const order = [...points].sort((a, b) => !a.rank - !b.rank || better(y) * (b.values[y] - a.values[y]));
  for (const row of order) {
    const value = row.values[x], place = seen.get(value) || 0;
    seen.set(value, place + 1);
    const offset = 0.014 * Math.ceil(place / 2) * (place % 2 ? 1 : -1);
    row.at = log ? value * (range[1] / range[0]) ** offset : value + offset * (range[1] - range[0]);
  }
}

/** Limits with room around the values, in the values' unit. */
function limits(values, log) {
  const low = Math.min(...values), high = Math.max(...values);
  if (log) {
    const margin = Math.max((high / low) ** 0.09, 1.12);
    return [low / margin, high * margin];
  }
  const margin = 0.09 * (high - low) || Math.abs(high) * 0.05 || 1;
  return [low - margin, high + margin];
}

/** The line around everything that the front beats. */
function frontLine(front, axes, xRange, yRange) {
  const points = front.map((row) => [row.values[axes.x], row.values[axes.y]]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  if (!points.length) return { x: [], y: [] };
  const right = better(axes.x) < 0, worst = yRange[better(axes.y) > 0 ? 0 : 1];
  const first = points[0], last = points[points.length - 1];
  const line = right ? [[first[0], worst], ...points, [xRange[1], last[1]]] : [[xRange[0], first[1]], ...points, [last[0], worst]];
  return { x: line.map((p) => p[0]), y: line.map((p) => p[1]), shape: right ? "hv" : "vh" };
}

function describe(row, axes) {
  const interval = (name) => {
    const found = row.intervals[name];
    return found ? ` ${span(name, found)}` : "";
  };
  const values = [axes.x, axes.y].map((name) => `${data.metrics[name].short}: ${shown(name, row.values[name])}${interval(name)}`);
  const settings = Object.entries(row.settings).map(([name, value]) => `${name}=${brief(value)}`).join(", ");
  return [nameOf(row), ...values, settings, row.rank ? `rank ${row.rank}` : row.unranked.join("; ")].filter(Boolean);
}

function brief(value) {
  if (value !== null && typeof value === "object") return JSON.stringify(value);
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(3))) : String(value);
}

function bars(rows, name) {
  const span = (row, i, sign) => (row.intervals[name] ? sign * (row.intervals[name][i] - row.values[name]) : 0);
  return { type: "data", symmetric: false, array: rows.map((r) => span(r, 1, 1)), arrayminus: rows.map((r) => span(r, 0, -1)), width: 0, thickness: 1.3 };
}

function methodTrace(method, rows, axes, ink, paper) {
  const look = methodStyles.get(method) || { colour: ink, symbol: "star" };
  return {
    type: "scatter", mode: "markers", name: plain(method), x: rows.map((row) => row.at), y: rows.map((row) => row.values[axes.y]),
    customdata: rows.map((row) => row.id), text: rows.map((row) => describe(row, axes).map((s, i) => (i ? plain(s) : `<b>${plain(s)}</b>`)).join("<br>")),
    hovertemplate: "%{text}<extra></extra>", error_y: { ...bars(rows, axes.y), color: look.colour },
    error_x: { ...bars(rows, axes.x), color: look.colour },
    marker: {
      color: look.colour, symbol: rows.map((row) => (row.kind === "teacher" ? "star" : row.rank ? look.symbol : `${look.symbol}-open`)),
      size: rows.map((row) => (row.kind === "teacher" ? 15 : row.front ? 11 : 9)),
      line: { color: rows.map((row) => (row.kind !== "teacher" && !row.rank ? look.colour : row.front ? ink : paper)), width: rows.map((row) => (row.front || !row.rank ? 1.6 : 0.7)) },
    },
  };
}

function drawExplorer() {
  const table = byId("explorer-pair") ? byId("explorer-pair").value : data.tables[0];
  const axes = explorerAxes();
  const all = data.rows.filter((row) => row.table === table && row.kind !== "missing" && row.records.length);
  const able = all.filter((row) => has(row, axes.x) && has(row, axes.y));
  const ranked = able.filter((row) => row.kind === "student" && row.rank);
  const flags = onFront(ranked, axes.x, axes.y);
  for (const row of able) row.front = false;
  ranked.forEach((row, i) => { row.front = flags[i]; });
  const methods = [...new Set(all.filter((row) => row.kind === "student").map((row) => row.method))];
  const order = data.methods.map((method) => method.name).filter((name) => methods.includes(name));
  methodButtons(byId("explorer-legend"), order, explorer.hidden, () => drawPoints(able, axes, order));
  drawPoints(able, axes, order);
  explorerStatus(all, able, ranked, axes);
  remember({ at: data.tables.length > 1 ? table : "", x: axes.x, y: axes.y, xlog: axes.logX ? "1" : "0", ylog: axes.logY ? "1" : "0" });
}

function drawPoints(able, axes, methods) {
  const chart = byId("explorer-chart"), ink = colour("--ink"), paper = colour("--page");
  const visible = able.filter((row) => row.kind === "teacher" || !explorer.hidden.has(row.method));
  const around = (name) => able.flatMap((row) => [row.values[name], ...(row.intervals[name] || [])]);
  const xRange = able.length ? limits(around(axes.x), axes.logX) : [0.5, 1.5], yRange = able.length ? limits(around(axes.y), axes.logY) : [0, 1];
  sideways(able, axes.x, axes.y, axes.logX, xRange);
  const line = frontLine(able.filter((row) => row.front), axes, xRange, yRange);
  const traces = [{ type: "scatter", mode: "lines", x: line.x, y: line.y, line: { shape: line.shape, color: ink, width: 1.2, dash: "dot" }, hoverinfo: "skip" }];
  explorer.points = [];
  for (const method of [...methods, null]) {
    const rows = visible.filter((row) => (method === null ? row.kind === "teacher" : row.kind === "student" && row.method === method));
    rows.forEach((row, i) => explorer.points.push({ row, curveNumber: traces.length, pointNumber: i }));
    traces.push(methodTrace(method === null ? "teacher" : method, rows, axes, ink, paper));
  }
  const scaled = (range, log) => (log ? range.map(Math.log10) : range);
  const ticks = (name, log) => (["%", "nat"].includes(data.metrics[name].unit) ? {} : { tickformat: "~s", ...(log ? { dtick: "D2" } : {}) });
  const wide = (range) => range[1] / range[0] > 60;
  const axis = (name, log, range) => ({ title: `${titled(name)}${log ? ", log scale" : ""} ${better(name) > 0 ? "↑" : "↓"}`, type: log ? "log" : "linear", range: scaled(range, log), ...ticks(name, log), ...(log && wide(range) ? { dtick: 1 } : {}) });
  const note = (row) => ({ text: plain(`${nameOf(row)} ${bare(axes.y, row.values[axes.y])}`), xref: "paper", x: 0.006, xanchor: "left", y: axes.logY ? Math.log10(row.values[axes.y]) : row.values[axes.y], yanchor: "bottom", showarrow: false, font: { size: 11.5, color: colour("--quiet") } });
  const teachers = visible.filter((row) => row.kind === "teacher");
  const shape = (row) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: row.values[axes.y], y1: row.values[axes.y], layer: "below", line: { color: colour("--quiet"), width: 1, dash: "dash" } });
  Plotly.react(chart, traces, { ...layout(axis(axes.x, axes.logX, xRange), axis(axes.y, axes.logY, yRange)), shapes: teachers.map(shape), annotations: teachers.length < 3 ? teachers.map(note) : [] }, CONFIG);
  if (!chart.dataset.listens) {
    chart.dataset.listens = "yes";
    chart.on("plotly_click", (event) => { if (event.points[0].customdata) openRow(event.points[0].customdata); });
  }
  listPoints(axes);
}

/** The same points as buttons: what a keyboard and a screen reader use. */
function listPoints(axes) {
  const ordered = [...explorer.points].sort((a, b) => b.row.front - a.row.front || better(axes.y) * (b.row.values[axes.y] - a.row.values[axes.y]));
  const hover = (point) => () => Plotly.Fx.hover(byId("explorer-chart"), [{ curveNumber: point.curveNumber, pointNumber: point.pointNumber }]);
  byId("points").replaceChildren(...ordered.map((point) => {
    const { row } = point;
    const of = row.kind === "teacher" ? "teacher" : row.front ? "on the front" : row.rank ? "" : "not ranked";
    return element("li", {}, element(
      "button", { "type": "button", "aria-haspopup": "dialog", "data-row": row.id, "data-front": String(row.front), "onclick": () => openRow(row.id), "onfocus": hover(point), "onmouseenter": hover(point) },
      swatch(row.kind === "teacher" ? "" : row.method, row.kind === "student" && !row.rank), element("span", {}, nameOf(row)), element("span", { class: "of" }, of),
      element("span", { class: "at" }, shown(axes.y, row.values[axes.y]), element("br"), shown(axes.x, row.values[axes.x])),
    ));
  }));
}

function explorerStatus(all, able, ranked, axes) {
  const front = ranked.filter((row) => row.front);
  const other = all.filter((row) => !able.includes(row));
  const unlike = other.filter((row) => [axes.x, axes.y].some((name) => isLatency(name) && !row.comparable && Number.isFinite(row.values[name])));
  const count = (n) => (n === 1 ? "1 row" : `${n} rows`);
  const parts = axes.x === axes.y ? ["Choose two different axes for a front."] : [`On the front: ${front.map(nameOf).join(", ") || "no row"}.`];
  if (unlike.length) parts.push(`Left out: ${count(unlike.length)} whose latency was measured under other conditions (${[...new Set(unlike.map((row) => row.conditions))].join("; ")}).`);
  if (other.length > unlike.length) parts.push(`Left out: ${count(other.length - unlike.length)} without a value on one of the axes.`);
  const measured = able.find((row) => row.conditions);
  if (measured && [axes.x, axes.y].some(isLatency)) parts.push(`Latency: ${measured.conditions}.`);
  byId("explorer-status").textContent = parts.join(" ");
}

function setUpExplorer() {
  if (!byId("explorer")) return;
  const axes = data.axes.filter((name) => data.rows.some((row) => has(row, name)));
  const pick = (wanted, usual) => (axes.includes(wanted) ? wanted : axes.includes(usual) ? usual : axes[0]);
  const logarithmic = (name) => LOGARITHMIC.has(data.metrics[name].unit);
  fill(byId("axis-x"), axes, titled, pick(state.x, "params"));
  fill(byId("axis-y"), axes, titled, pick(state.y, "test_top1_pct"));
  byId("log-x").checked = state.xlog ? state.xlog === "1" : logarithmic(byId("axis-x").value);
  byId("log-y").checked = state.ylog ? state.ylog === "1" : logarithmic(byId("axis-y").value);
  for (const side of ["x", "y"]) {
    byId(`axis-${side}`).addEventListener("change", (event) => { byId(`log-${side}`).checked = logarithmic(event.target.value); drawExplorer(); });
    byId(`log-${side}`).addEventListener("change", drawExplorer);
  }
  byId("swap").addEventListener("click", () => {
    [byId("axis-x").value, byId("axis-y").value] = [byId("axis-y").value, byId("axis-x").value];
    [byId("log-x").checked, byId("log-y").checked] = [byId("log-y").checked, byId("log-x").checked];
    drawExplorer();
  });
  if (byId("explorer-pair")) {
    if (data.tables.includes(state.at)) byId("explorer-pair").value = state.at;
    byId("explorer-pair").addEventListener("change", drawExplorer);
  }
  redraws.push(drawExplorer);
  drawExplorer();
}
