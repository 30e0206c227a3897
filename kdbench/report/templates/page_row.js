// The details of one row: what it is, how it trained, what failed, and where every number comes from.

let opener = null;

const facts = (pairs) => element("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined)
  .flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value instanceof Node ? value : String(value))]));

function listed(headings, lines) {
  const cells = (tag, values) => values.map((value, i) => element(tag, headings[i].numeric ? { class: "num" } : headings[i].wrap ? { class: "wrap" } : {}, value instanceof Node ? value : String(value)));
  const head = element("thead", {}, element("tr", {}, ...cells("th", headings.map((heading) => heading.text))));
  const table = element("table", {}, head, element("tbody", {}, ...lines.map((line) => element("tr", {}, ...cells("td", line)))));
  return element("div", { class: "scroll", tabindex: "0" }, table);
}

const column = (text, numeric = false, wrap = false) => ({ text, numeric, wrap });
const settingsText = (settings) => Object.entries(settings || {}).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${brief(value)}`).join(", ");
const code = (text) => element("code", {}, text);

function command(row) {
  const text = `kdbench show ${row.id}`;
  const said = element("span", { class: "hidden", role: "status" });
  const copied = () => { said.textContent = "copied"; button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy"; }, 1500); };
  const shownCode = code(text);
  const button = element("button", { type: "button", onclick: () => {
    const select = () => { getSelection().selectAllChildren(shownCode); button.textContent = "Selected"; };
    if (navigator.clipboard) navigator.clipboard.writeText(text).then(copied, select); else select();
  } }, "Copy");
  return element("div", { class: "command" }, shownCode, button, said);
}

function badges(row) {
  const texts = [row.kind === "teacher" ? "teacher" : row.rank ? `rank ${row.rank}` : "not ranked", ...row.fronts.map((name) => `on the front: ${name}`)];
  const reasons = row.kind === "teacher" ? [] : row.unranked;
  return element("div", { class: "badges" }, ...texts.map((text) => element("span", {}, text)), ...reasons.map((text) => element("span", { class: "warn" }, text)));
}

function tiles(row) {
  const wanted = ["test_top1_pct", "test_nll", "test_ece_pct", "test_agreement_pct", "params", "size_bytes", "flops", "latency_b1_p50_ms", "train_wall_s"];
  const made = wanted.filter((name) => Number.isFinite(row.values[name])).map((name) => {
    const found = row.intervals[name], mark = isLatency(name) && !row.comparable ? " †" : "";
    const small = found ? element("small", {}, span(name, found)) : "";
    return element("div", {}, element("dt", {}, data.metrics[name].title), element("dd", {}, shown(name, row.values[name]) + mark, small));
  });
  return element("dl", { class: "tiles" }, ...made);
}

function configuration(row) {
  const part = (name) => settingsText(name in row.config ? data.shared[row.config[name]] : {});
  return [element("h3", {}, "Configuration"), facts([
    ["hyper-parameters", settingsText(row.settings) || "none"], ["student", part("model")], ["training", part("train")], ["data", part("data")],
    ["chosen from", row.chosen.length ? element("span", {}, "search trial ", code(row.chosen[0]), `, validation top-1 ${shown("val_top1_pct", data.records[row.chosen[0]].result.val_top1_pct)}`) : ""],
    ["published", row.published.join("; ")],
  ])];
}

function seedsTable(row) {
  if (!row.records.length) return [];
  const headings = [column("Seed", true), column("Status"), column("Test top-1 %", true), column("Val top-1 %", true), column("Best epoch", true), column("Training", true), column("Record")];
  const number = (value) => (value === undefined ? "–" : value.toFixed(2));
  const lines = row.records.map((key) => {
    const record = data.records[key], result = record.result;
    const status = element("span", record.status === "finished" ? {} : { class: "bad" }, record.status.replace("_", " "));
    return [record.seed, status, number(result.test_top1_pct), number(result.val_top1_pct), result.best_epoch ?? "–", seconds(record.wall_s), code(key)];
  });
  const planned = row.planned ? ` of ${row.planned} planned` : "";
  const interval = row.intervals.test_top1_pct;
  const words = row.values.test_top1_pct === undefined ? "No seed finished." : `Mean ${shown("test_top1_pct", row.values.test_top1_pct)}${interval ? `, bootstrap 95 % interval ${span("test_top1_pct", interval)}` : "; no interval: it needs three finished seeds that differ"}.`;
  return [element("h3", {}, "Seeds"), element("p", { class: "quiet" }, `${row.runs} started${planned}. ${words}`), listed(headings, lines)];
}

function curvesPart(row) {
  const names = quantities([row]);
  if (!names.length || typeof Plotly === "undefined") return { nodes: [], draw: () => {} };
  const select = element("select", { "id": "row-quantity" });
  fill(select, names, quantityTitle, "val_top1_pct");
  const chart = element("div", { "class": "chart", "role": "img", "aria-label": `Training curves of ${nameOf(row)}; the seeds' results are in the table above` });
  const draw = () => drawRowCurves(row, chart, select.value);
  select.addEventListener("change", draw);
  const bar = element("div", { class: "bar" }, element("label", { for: "row-quantity" }, "Quantity ", select), "thin: seeds; thick: their mean");
  return { nodes: [element("h3", {}, "Training curves"), bar, chart], draw };
}

function failures(row) {
  const keys = [...[...row.records, ...row.evaluations].filter((key) => data.records[key].status !== "finished"), ...row.lost];
  const heading = element("h3", {}, "Failures");
  if (!keys.length) return [heading, element("p", { class: "quiet" }, "None: every training of this row and of its method's search on this pair finished.")];
  const lines = keys.map((key) => {
    const record = data.records[key];
    return [record.phase, element("span", { class: "bad" }, record.status.replace("_", " ")), record.error || "no reason recorded", record.attempts, code(key)];
  });
  return [heading, listed([column("Phase"), column("Status"), column("Reason", false, true), column("Attempts", true), column("Record")], lines)];
}

function measurements(row) {
  const names = Object.keys(data.metrics).filter((name) => Number.isFinite(row.values[name]));
  const lines = names.map((name) => {
    const found = row.intervals[name];
    return [data.metrics[name].title, shown(name, row.values[name]), found ? span(name, found) : "–", code(name)];
  });
  const details = element("details", {}, element("summary", {}, `All measurements (${names.length})`), listed([column("Measurement"), column("Mean over seeds", true), column("95 % interval", true), column("Name in records")], lines));
  return names.length ? [element("h3", {}, "Measurements"), details] : [];
}

function provenance(row) {
  const keys = [...row.records, ...row.chosen, ...row.networks, ...row.evaluations, ...row.latency].filter((key, i, all) => all.indexOf(key) === i);
  if (!keys.length) return [];
  const lines = keys.map((key) => {
    const record = data.records[key];
    return [code(key), record.phase, record.status.replace("_", " "), `${record.started.slice(0, 16)} to ${record.ended.slice(0, 16)}`, record.attempts];
  });
  const groups = new Map();
  for (const key of keys) groups.set(data.records[key].environment, [...(groups.get(data.records[key].environment) || []), key]);
  const environments = [...groups].map(([place, members]) => element("details", {}, element("summary", {}, `Environment of ${members.length === 1 ? members[0] : `${members.length} records`}`), environmentFacts(data.shared[place], members)));
  return [element("h3", {}, "Provenance"), listed([column("Record"), column("Phase"), column("Status"), column("From, to (UTC)"), column("Attempts", true)], lines), ...environments];
}

function environmentFacts(environment, members) {
  const git = environment.git || {}, flat = (value) => settingsText(value).replaceAll("=", " ");
  const other = Object.entries(environment).filter(([name]) => !["git", "versions", "hardware"].includes(name));
  return facts([
    ["commit", git.commit ? `${git.commit}${git.dirty ? " with uncommitted changes" : ""}` : "unknown"], ["versions", flat(environment.versions)],
    ["hardware", flat(environment.hardware)], ...other.map(([name, value]) => [name.replaceAll("_", " "), value !== null && typeof value === "object" ? flat(value) : value]),
    ["records", members.join(", ")],
  ]);
}

function openRow(id) {
  const row = rowsById.get(id), dialog = byId("row");
  if (!row) return;
  if (!dialog.open) opener = document.activeElement;
  const curves = curvesPart(row);
  byId("row-title").replaceChildren(nameOf(row), element("small", {}, `${arrow(row.pair)} · row ${row.id}`));
  byId("row-body").replaceChildren(
    badges(row), tiles(row), command(row), ...configuration(row), ...seedsTable(row), ...curves.nodes, ...failures(row), ...measurements(row), ...provenance(row),
  );
  for (const line of document.querySelectorAll("#board tr.opened")) line.classList.remove("opened");
  for (const line of document.querySelectorAll("#board tbody tr")) if (line.dataset.row === id) line.classList.add("opened");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("row-title").focus();
  curves.draw();
  dialog.redraw = curves.draw;
  remember({ row: id });
}

function setUpRow() {
  const dialog = byId("row");
  byId("row-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => {
    remember({ row: "" });
    for (const line of document.querySelectorAll("#board tr.opened")) line.classList.remove("opened");
    if (opener && opener.isConnected) opener.focus();
  });
  redraws.push(() => { if (dialog.open && dialog.redraw) dialog.redraw(); });
  if (state.row) openRow(state.row);
}

setUpColours();
setUpLinks();
setUpTables();
setUpExplorer();
setUpCurves();
setUpRow();
// An address with a part's name alone, such as #fairness, was scrolled to before the charts took their room.
if (location.hash.length > 1 && !location.hash.includes("=") && byId(location.hash.slice(1))) byId(location.hash.slice(1)).scrollIntoView();
