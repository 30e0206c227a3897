// Training curves: of all rows of a pair in one chart, and of one row's seeds in its details.

/** One curve of a record as points; long ones were thinned and bring their epochs. */
function curveOf(key, name) {
  const found = (data.records[key].curves || {})[name];
  if (!found) return null;
  return Array.isArray(found[0]) ? { x: found[0], y: found[1] } : { x: found.map((_, i) => i + 1), y: found };
}

function meanCurve(curves) {
  const byEpoch = new Map();
  for (const curve of curves) curve.x.forEach((epoch, i) => byEpoch.set(epoch, [...(byEpoch.get(epoch) || []), curve.y[i]]));
  const epochs = [...byEpoch.keys()].sort((a, b) => a - b);
  return { x: epochs, y: epochs.map((epoch) => mean(byEpoch.get(epoch))) };
}

function quantities(rows) {
  const found = new Set(rows.flatMap((row) => row.records.flatMap((key) => Object.keys(data.records[key].curves || {}))));
  const first = ["val_top1_pct", "val_nll", "train_loss"].filter((name) => found.has(name));
  return [...first, ...[...found].filter((name) => !first.includes(name)).sort()];
}

function quantityTitle(name) {
  if (name === "lr") return "learning rate";
  if (name === "train_loss") return "training loss";
  return name.startsWith("train_loss_") ? `training loss: ${name.slice(11)}` : titled(name);
}

/** Traces of a row: seeds as thin lines, their mean as a thick one. */
function curveTraces(row, name, seeds, strong) {
  const look = methodStyles.get(row.method) || { colour: colour("--ink") };
  const curves = row.records.map((key) => ({ key, ...curveOf(key, name) })).filter((curve) => curve.x);
  const short = (curve) => (curve.x.length <= 12 ? "lines+markers" : "lines");
  const label = (words) => `<b>${plain(nameOf(row))}</b><br>${plain(words)}<br>epoch %{x}: %{y:.5~g}<extra></extra>`;
  const thin = !seeds ? [] : curves.map((curve) => ({
    type: "scatter", mode: short(curve), x: curve.x, y: curve.y, opacity: 0.4, line: { color: look.colour, width: 1 }, marker: { size: 3 },
    hovertemplate: label(`seed ${data.records[curve.key].seed}`), customdata: curve.x.map(() => row.id),
  }));
  if (!curves.length) return [];
  const middle = meanCurve(curves);
  return [...thin, {
    type: "scatter", mode: short(middle), x: middle.x, y: middle.y, line: { color: look.colour, width: strong ? 2.6 : 1.8 }, marker: { size: 5, symbol: look.symbol },
    hovertemplate: label(`mean of ${curves.length} ${curves.length === 1 ? "seed" : "seeds"}`), customdata: middle.x.map(() => row.id),
  }];
}

function curveLayout(name, traces) {
  const last = Math.max(1, ...traces.flatMap((trace) => trace.x));
  const positive = name === "lr" || name.startsWith("train_loss");
  return layout({ title: "epoch", nticks: 9, tickformat: "d", ...(last <= 9 ? { dtick: 1, range: [0.8, last + 0.2] } : {}) }, { title: quantityTitle(name), ...(positive ? { rangemode: "tozero" } : {}) });
}

function drawRowCurves(row, chart, name) {
  const traces = curveTraces(row, name, true, true);
  Plotly.react(chart, traces, curveLayout(name, traces), CONFIG);
}

const curvesHidden = new Set();

function drawCurves() {
  const table = byId("curves-pair") ? byId("curves-pair").value : data.tables[0];
  const name = byId("curves-quantity").value, seeds = byId("curves-seeds").checked;
  const rows = data.rows.filter((row) => row.table === table && row.kind === "student");
  const methods = data.methods.map((method) => method.name).filter((method) => rows.some((row) => row.method === method));
  const draw = () => {
    const visible = rows.filter((row) => !curvesHidden.has(row.method));
    const traces = visible.flatMap((row) => curveTraces(row, name, seeds, false));
    Plotly.react(byId("curves-chart"), traces, curveLayout(name, traces), CONFIG);
  };
  methodButtons(byId("curves-legend"), methods, curvesHidden, draw);
  draw();
  const thinned = data.stride > 1 ? ` Every ${data.stride}th epoch and the last are drawn.` : "";
  byId("curves-note").textContent = `Means over the seeds of each row; click a line for the row.${thinned}`;
}

function setUpCurves() {
  const chart = byId("curves-chart");
  if (!chart) return;
  const names = quantities(data.rows.filter((row) => row.kind === "student"));
  if (!names.length) return;
  fill(byId("curves-quantity"), names, quantityTitle, "val_top1_pct");
  for (const id of ["curves-pair", "curves-quantity", "curves-seeds"]) if (byId(id)) byId(id).addEventListener("change", drawCurves);
  redraws.push(drawCurves);
  drawCurves();
  chart.on("plotly_click", (event) => { if (event.points[0].customdata) openRow(event.points[0].customdata); });
}
