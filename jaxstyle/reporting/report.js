"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");
const SVG = document.getElementById("svg").namespaceURI;

// Elements. Whatever comes from files becomes text nodes and attribute values, never markup.

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function picture(embedded, alt, extra) {
  if (!embedded) return null;
  return h("img", { ...extra, src: embedded.src, width: embedded.width, height: embedded.height, alt, decoding: "async" });
}

// Values.

const number = (value) => (typeof value === "number" && Number.isFinite(value) ? value : null);

function short(value) {
  if (number(value) === null) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(3);
  return String(Number(value.toPrecision(5)));
}
function duration(seconds) {
  if (number(seconds) === null) return "–";
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600);
  const rest = `${Math.floor((whole % 3600) / 60)} min`;
  return hours ? `${hours} h ${rest}` : `${rest} ${whole % 60} s`;
}
function setting(value) {
  if (value === null || value === undefined) return "not set";
  if (Array.isArray(value)) return value.map(setting).join(", ");
  if (typeof value !== "object") return String(value);
  return Object.entries(value).map(([name, weight]) => (weight === 1 ? name : `${name}=${setting(weight)}`)).join(", ");
}
function median(values) {
  const sorted = values.filter((value) => number(value) !== null).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
const list = (value) => (Array.isArray(value) ? value : value === null || value === undefined ? [] : [value]);
const file = (path) => String(path).split(/[\\/]/).pop();

/** Paths to what they are called: the name without its suffix, or the whole path if that is not one of a kind. */
function labels(paths) {
  const stem = (path) => file(path).replace(/\.[^.]*$/, "") || path;
  const taken = new Map();
  for (const path of new Set(paths)) taken.set(stem(path), (taken.get(stem(path)) ?? 0) + 1);
  return new Map(paths.map((path) => [path, taken.get(stem(path)) > 1 ? path : stem(path)]));
}

// Tables.

const exact = (value) => h("td", { class: "number", title: String(value) }, short(value));
// Names may go on in a new line after these signs.
const breakable = (text) => String(text).split(/(?<=[_/])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));
const row = (name, value, attributes) => h("tr", attributes, h("th", { scope: "row" }, breakable(name)), h("td", {}, value));
const table = (...rows) => h("table", { class: "list" }, h("tbody", {}, ...rows.flat(3)));

function settingRows(settings, attributes) {
  return Object.entries(settings).map(([name, value]) => row(name, setting(value), attributes));
}
function termRows(terms, loss) {
  const rows = Object.entries(terms ?? {}).map(([name, value]) => {
    const share = number(value) !== null && number(loss) ? `${((100 * value) / loss).toFixed(1)} %` : "–";
    return h("tr", {}, h("th", { scope: "row" }, name), exact(value), h("td", { class: "number soft" }, share));
  });
  const total = h("tr", { class: "differs" }, h("th", { scope: "row" }, "loss"), exact(loss), h("td", { class: "number" }));
  return [...rows, total];
}
const card = (title, ...children) => h("section", { class: "card" }, h("h2", {}, title), children);
const figures = (pairs) => h("dl", { class: "figures" }, pairs.map(([name, value, title]) => h("div", {}, h("dt", {}, name), h("dd", { title }, value))));

// Curves with a logarithmic axis.

function logTicks(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    const ticks = [];
    for (let power = first; power <= last; power++) for (const step of steps) ticks.push(step * 10 ** power);
    const inside = ticks.filter((tick) => tick >= low && tick <= high);
    if (inside.length >= 3) return inside.filter((_, i) => i % Math.ceil(inside.length / 7) === 0);
  }
  return linearTicks(low, high, 4);
}
function linearTicks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}
function tickText(value) {
  if (value !== 0 && (value >= 1e5 || value < 1e-3)) return value.toExponential().replace("e+", "e");
  return String(Number(value.toPrecision(6)));
}

/**
 * A plot with its legend, which also reads out the values under the pointer.
 *
 * xs: {name: [x]}; lines: [{name, values, color, dash, width}]; accepted: [boolean];
 * scales: [{index, label}]; describe: index -> text. All lists are one entry an evaluation.
 */
function curves({ title, xs, lines, accepted, scales = [], describe, height }) {
  const shown = new Set(lines);
  const rejected = accepted.flatMap((yes, i) => (yes ? [] : [i]));
  let marks = rejected.length > 0, axis = Object.keys(xs)[0], cursor = null, place = null, order = [];
  const plot = h("div", { class: "plot", tabindex: 0, role: "group", "aria-label": `${title}; arrow keys read out values` });
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const over = s("g");

  const legend = h("div", { class: "legend" }, lines.map((line) => {
    line.value = h("span", { class: "value" });
    const sample = s("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" }, stroke(line, { d: "M1 5H21" }));
    return toggle(sample, line.name, line.value, true, (on) => (on ? shown.add(line) : shown.delete(line)));
  }));
  if (rejected.length) {
    const sample = s("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" }, s("path", { class: "cross", d: cross(11, 5) }));
    legend.append(toggle(sample, "rejected", h("span", { class: "value" }, String(rejected.length)), true, (on) => (marks = on)));
  }
  const axes = h("div", { class: "switch", role: "group", "aria-label": "Horizontal axis" }, Object.keys(xs).map((name) =>
    h("button", { type: "button", "aria-pressed": String(name === axis), onclick: (event) => {
      axis = name;
      for (const button of axes.children) button.setAttribute("aria-pressed", String(button === event.currentTarget));
      draw();
    } }, name)));

  function toggle(sample, name, value, on, change) {
    return h("button", { type: "button", "aria-pressed": String(on), onclick: (event) => {
      on = !on;
      event.currentTarget.setAttribute("aria-pressed", String(on));
      change(on);
      draw();
    } }, sample, h("span", { class: "name" }, name), value);
  }
  function cross(x, y) {
    return `M${x - 3.5} ${y - 3.5}l7 7m0 -7l-7 7`;
  }
  function stroke(line, attributes) {
    const path = s("path", { class: "curve", "stroke-width": line.width, "stroke-dasharray": line.dash, ...attributes });
    path.style.stroke = line.color;
    return path;
  }

  function draw() {
    const width = Math.max(260, plot.clientWidth), left = 58, right = 12, top = 18, bottom = 40;
    const x = xs[axis];
    order = x.map((_, i) => i).filter((i) => number(x[i]) !== null).sort((a, b) => x[a] - x[b]);
    const drawn = lines.filter((line) => shown.has(line));
    const seen = [];
    for (const i of order) if (accepted[i] || marks) for (const line of drawn) {
      if (!accepted[i] && line !== lines[0]) continue;
      if (line.values[i] > 0) seen.push(line.values[i]);
    }
    let low = seen.reduce((a, b) => Math.min(a, b), Infinity), high = seen.reduce((a, b) => Math.max(a, b), 0);
    if (!seen.length) [low, high] = [1, 10];
    const pad = Math.max(1.02, (high / low) ** 0.04);
    low /= pad; high *= pad;
    const from = order.length ? x[order[0]] : 0, to = order.length ? x[order.at(-1)] : 1;
    const toX = (value) => left + ((value - from) / (to - from || 1)) * (width - left - right);
    const toY = (value) => top + ((Math.log(high) - Math.log(value)) / (Math.log(high) - Math.log(low))) * (height - top - bottom);
    place = { toX, toY, left, width, right, top, bottom, x };

    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, "aria-hidden": "true" });
    for (const tick of logTicks(low, high)) {
      svg.append(s("line", { class: "rule", x1: left, x2: width - right, y1: toY(tick), y2: toY(tick) }));
      svg.append(s("text", { x: left - 8, y: toY(tick) + 4, "text-anchor": "end" }, tickText(tick)));
    }
    for (const tick of linearTicks(from, to, Math.max(4, Math.floor(width / 130)))) {
      svg.append(s("text", { x: toX(tick), y: height - bottom + 18, "text-anchor": "middle" }, tickText(tick)));
    }
    svg.append(s("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, axis));
    for (const { index, label } of scales) if (number(x[index]) !== null) {
      const at = toX(x[index]);
      svg.append(s("line", { class: "scale", x1: at, x2: at, y1: top, y2: height - bottom }));
      const end = at > width - 70;
      svg.append(s("text", { x: end ? width - right : at, y: 12, "text-anchor": end ? "end" : "middle" }, label));
    }
    for (const line of [...drawn].reverse()) {  // the first lies on top
      let d = "", pen = false;
      for (const i of order) {
        if (!accepted[i]) continue;
        const value = line.values[i];
        if (!(value > 0)) { pen = false; continue; }
        const point = `${toX(x[i]).toFixed(1)} ${toY(value).toFixed(1)}`;
        d += pen ? `L${point}` : `M${point}h0`;
        pen = true;
      }
      svg.append(stroke(line, { d }));
    }
    if (marks) {
      // A loss that is no number has its mark at the upper edge.
      const d = rejected.filter((i) => number(x[i]) !== null).map((i) => {
        const value = lines[0].values[i];
        return cross(toX(x[i]), value > 0 && shown.has(lines[0]) ? toY(value) : top + 4);
      });
      svg.append(s("path", { class: "cross", d: d.join("") }));
    }
    svg.append(over);
    plot.replaceChildren(svg);
    read(cursor);
  }

  function read(index) {
    cursor = index;
    const i = index ?? order.at(-1);
    over.replaceChildren();
    for (const line of lines) {
      line.value.textContent = i === undefined ? "" : short(line.values[i]);
      line.value.title = i === undefined ? "" : String(line.values[i]);
    }
    readout.textContent = i === undefined ? "No evaluations yet." : describe(i);
    if (index === null) return;
    const { toX, toY, top, bottom, x } = place, at = toX(x[index]);
    over.append(s("line", { class: "cursor", x1: at, x2: at, y1: top, y2: height - bottom }));
    for (const line of lines) if (shown.has(line) && line.values[index] > 0) {
      const dot = s("circle", { cx: at, cy: toY(line.values[index]), r: 3.5 });
      dot.style.fill = line.color;
      over.append(dot);
    }
  }

  plot.addEventListener("pointermove", (event) => {
    if (!order.length) return;
    const { toX, x, width } = place, box = plot.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    let low = 0, high = order.length - 1;
    while (low < high) {  // the last one left of the pointer
      const middle = (low + high + 1) >> 1;
      if (toX(x[order[middle]]) <= at) low = middle; else high = middle - 1;
    }
    const next = Math.min(low + 1, order.length - 1);
    read(order[toX(x[order[next]]) - at < at - toX(x[order[low]]) ? next : low]);
  });
  plot.addEventListener("pointerleave", () => read(null));
  plot.addEventListener("keydown", (event) => {
    const last = order.length - 1, at = cursor === null ? last : order.indexOf(cursor);
    const jump = event.shiftKey ? 10 : 1;
    const target = { ArrowLeft: at - jump, ArrowRight: at + jump, Home: 0, End: last }[event.key];
    if (target === undefined || last < 0) return;
    event.preventDefault();
    event.stopPropagation();
    read(order[Math.min(last, Math.max(0, target))]);
  });
  let width = 0;
  new ResizeObserver(() => {
    if (plot.clientWidth !== width) { width = plot.clientWidth; draw(); }
  }).observe(plot);
  return { axes, body: h("div", {}, plot, readout, legend) };
}
const COLORS = 8;
const termLine = (name, values, i) => ({ name, values, color: `var(--c${i % COLORS})`, dash: i < COLORS ? null : "5 4", width: 1.6 });
const lossLine = (name, values) => ({ name, values, color: "var(--ink)", dash: null, width: 2.4 });

// A run.

function showRun() {
  const { records, result } = data, last = records.at(-1);
  const inputs = data.inputs ?? {};
  const styles = list(inputs.style), names = labels(styles);
  const ended = (result ?? last) ?? {};
  const best = result ? number(result.loss) : null;
  const rejected = records.filter((record) => record.accepted === false).length;
  const rate = median(records.map((record) => record.evaluations_per_second));
  const rateText = rate === null ? "–" : short(Number(rate.toPrecision(3)));
  const [loss, terms] = result ? [best, result.terms] : [number(last?.loss), last?.terms];
  const evaluations = result?.evaluations ?? last?.evaluation ?? 0;

  const state = result
    ? h("span", { class: `badge ${{ "not finite": "bad", stopped: "warn" }[result.reason] ?? "good"}` }, `finished: ${setting(result.reason)}`)
    : h("span", { class: "badge warn" }, "not finished");
  const about = inputs.content ? ` ${file(inputs.content)}${styles.length ? ` in the style of ${styles.map(file).join(" + ")}` : ""}` : "";
  page.append(h("header", { class: "head" }, h("h1", {}, data.name), h("p", { class: "soft" }, state, about)));

  const numbers = figures([
    [result ? "Loss" : "Loss so far", short(loss), String(loss)],
    ["Evaluations", String(evaluations)],
    ["Time", duration(ended.seconds)],
    ["Evaluations/s", rateText, rate === null ? null : String(rate)],
  ]);
  const stylePictures = h("div", { class: "styles" }, Array.from({ length: Math.max(styles.length, data.styles.length) }, (_, i) =>
    h("figure", {},
      picture(data.styles[i], `Style ${i + 1}`) ?? h("div", { class: "empty" }, "The picture is not in the run’s folder."),
      h("figcaption", {}, styles[i] === undefined ? `style ${i + 1}` : names.get(styles[i])))));
  page.append(h("div", { class: "stack" },
    h("div", { class: "top" },
      h("section", { class: "card", "aria-label": "Content and result" }, compare(result)),
      h("div", { class: "stack" }, card("Outcome", numbers), card(styles.length === 1 ? "Style" : "Styles", stylePictures))),
    lossCard(records),
    data.snapshots.length ? snapshotCard() : null,
    h("div", { class: "columns" },
      h("div", { class: "stack" }, card(result ? "Final terms" : "Terms so far", table(termRows(terms, loss))), timingCard(ended, rate, rejected, records)),
      card("Settings", table(settingRows(data.settings)))),
    inputsCard(inputs)));
}

function compare(result) {
  const { content, image } = data;
  const name = result || data.image_file === "image.png" ? "Result" : `Snapshot ${data.image_file.replace(/^.*\/0*|\.png$/g, "")}`;
  const note = [];
  if (!result) note.push(image ? `The run is not finished; this is ${data.image_file}.` : "The run is not finished and has no picture yet.");
  else if (!image) note.push("image.png is missing or cannot be read.");
  if (!content) note.push("The run’s folder has no picture of the content.");
  if (image && data.link) note.push(h("a", { href: data.link }, "Open the picture in full size"));
  const under = h("p", { class: "under" }, note.map((part) => h("span", {}, part)));
  const shape = image ?? content;
  if (!shape) return [h("div", { class: "empty" }, "No picture."), under];
  // Tall pictures do not push everything else off the screen.
  const fit = (box) => { box.style.maxWidth = `calc(82vh * ${shape.width / shape.height})`; return box; };
  if (!image || !content) {
    return [fit(h("div", { class: "compare single" }, picture(shape, image ? name : "Content"), h("span", { class: "l" }, image ? name : "Content"))), under];
  }
  const box = fit(h("div", { class: "compare" }, picture(image, name), picture(content, "Content", { class: "before" }),
    h("span", { class: "l" }, "Content"), h("span", { class: "r" }, name),
    h("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50, "aria-label": "How much of the content to show, in percent", oninput: (event) => move(event.target.value) })));
  const [left, right] = box.querySelectorAll("span");
  function move(value) {
    box.style.setProperty("--at", `${value}%`);
    left.hidden = value < 12;
    right.hidden = value > 88;
  }
  return [box, under];
}

function lossCard(records) {
  if (!records.length) return card("Loss", h("p", { class: "soft" }, "No evaluations yet."));
  const names = [...new Set(records.flatMap((record) => Object.keys(record.terms)))];
  const value = (record, name) => number(record.terms[name]);
  const lines = [
    lossLine("loss", records.map((record) => number(record.loss))),
    ...names.map((name, i) => termLine(name, records.map((record) => value(record, name)), i)),
  ];
  const scales = records.flatMap((record, index) =>
    index && record.scale !== records[index - 1].scale ? [{ index, label: `scale ${record.scale + 1}` }] : []);
  const describe = (i) => {
    const record = records[i];
    return [
      `evaluation ${record.evaluation}`,
      duration(record.seconds),
      scales.length ? `scale ${record.scale + 1}` : null,
      number(record.gradient_norm) === null ? null : `gradient ${short(record.gradient_norm)}`,
      number(record.step_size) === null ? null : `step ${short(record.step_size)}`,
      record.accepted === false ? "rejected" : null,
    ].filter(Boolean).join(" · ");
  };
  const { axes, body } = curves({
    title: "Loss and its terms",
    xs: { Evaluations: records.map((record) => record.evaluation), Seconds: records.map((record) => number(record.seconds)) },
    lines,
    accepted: records.map((record) => record.accepted !== false),
    scales,
    describe,
    height: 380,
  });
  return h("section", { class: "card", id: "loss" }, h("div", { class: "bar" }, h("h2", {}, "Loss"), axes), body);
}

function snapshotCard() {
  const taken = data.snapshots_taken, some = data.snapshots.length < taken ? ` (${data.snapshots.length} of ${taken})` : "";
  return card(`Snapshots${some}`, h("div", { class: "strip", tabindex: 0, role: "group", "aria-label": "Snapshots" }, data.snapshots.map((snapshot) => {
    const label = /^\d+$/.test(snapshot.name) ? `evaluation ${Number(snapshot.name)}` : snapshot.name;
    const shown = picture(snapshot.picture, label, { loading: "lazy" }) ?? h("div", { class: "empty" }, "cannot be read");
    return h("figure", {}, snapshot.link && snapshot.picture ? h("a", { href: snapshot.link }, shown) : shown, h("figcaption", {}, label));
  })));
}

function timingCard(ended, rate, rejected, records) {
  const memory = records.map((record) => number(record.memory_bytes)).filter((bytes) => bytes !== null);
  const rows = [
    ["seconds, without compilation", short(number(ended.seconds))],
    ["seconds of compilation", short(number(ended.compile_seconds))],
    ["evaluations/s, median", short(rate)],
    ["rejected evaluations", String(data.result?.rejected ?? rejected)],
    memory.length ? ["memory at most", `${short(Math.max(...memory) / 2 ** 20)} MiB`] : null,
    data.result?.device ? ["device", setting(data.result.device)] : null,
    data.result?.convolution ? ["convolution", setting(data.result.convolution)] : null,
    ...Object.entries(data.result?.versions ?? { jaxstyle: data.inputs?.jaxstyle }).map(([name, version]) => (version ? [name, setting(version)] : null)),
  ];
  return card("Timing", table(rows.filter(Boolean).map(([name, value]) => row(name, value))));
}

function inputsCard(inputs) {
  const hashes = inputs.sha256 ?? {};
  const line = (role, path, hash) => h("tr", {}, h("th", { scope: "row" }, role), h("td", {}, path ?? "", h("div", { class: "hash soft" }, hash ?? "")));
  const rows = [
    ...list(inputs.content).map((path, i) => line("content", path, list(hashes.content)[i])),
    ...list(inputs.style).map((path, i, all) => line(all.length > 1 ? `style ${i + 1}` : "style", path, list(hashes.style)[i])),
    ...list(inputs.content_guide).map((path, i) => line("content's guide", path, list(hashes.content_guide)[i])),
    ...list(inputs.style_guide).map((path, i, all) => line(all.length > 1 ? `guide of style ${i + 1}` : "style's guide", path, list(hashes.style_guide)[i])),
    ...list(hashes.init).map((hash) => line("start", null, hash)),
    ...list(hashes.weights).map((hash) => line("weights", null, hash)),
    ...list(inputs.forked_from).map((path) => line("forked from", path, null)),
  ];
  return rows.length ? card("Inputs and their SHA-256", fill(table(rows), { class: "list inputs" }, [])) : null;
}

// A grid.

function showGrid() {
  const cells = data.cells.map((cell, order) => ({ ...cell, order, style: cell.styles.map(String).join("\n") }));
  const contentNames = labels(cells.map((cell) => cell.content));
  const styleNames = labels(cells.flatMap((cell) => cell.styles.map(String)));
  const contentOf = (cell) => contentNames.get(cell.content);
  const styleOf = (style) => style.split("\n").map((path) => styleNames.get(path) ?? path).join(" + ");
  const settingsOf = (cell) => data.differing.map((name) => `${name} ${setting(cell.settings[name])}`).join(" · ");
  const key = (value) => JSON.stringify(value ?? null);
  const failed = cells.filter((cell) => cell.status !== "done").length;
  const distinct = (of) => [...new Set(cells.map(of))];
  const settings = distinct((cell) => key(cell.settings)).length;
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const summary = [
    plural(cells.length, "cell"), `${plural(distinct((c) => c.content).length, "content")} × ${plural(distinct((c) => c.style).length, "style")} × ${plural(settings, "setting")}`,
  ].join(" · ");
  page.classList.add("wide");
  page.append(h("header", { class: "head" }, h("h1", {}, data.name), h("p", { class: "soft" }, summary, failed ? h("span", { class: "bad" }, ` · ${failed} failed`) : null)));

  for (const cell of cells) {
    const alt = `${contentOf(cell)} in the style of ${styleOf(cell.style)}`;
    cell.words = [cell.cell, cell.content, cell.style, cell.status, cell.reason, settingsOf(cell)].join("\n").toLowerCase();
    cell.shown = picture(cell.picture, alt, { loading: "lazy" }) ??
      h("span", { class: "empty" }, cell.status === "done" ? "The picture is missing." : `failed: ${cell.reason ?? "no reason given"}`);
    cell.button = h("button", { type: "button", class: "cell", "data-cell": cell.cell, "aria-label": `${alt}${settingsOf(cell) ? `, ${settingsOf(cell)}` : ""}`, onclick: () => open(cell) },
      cell.shown,
      h("span", { class: "text" },
        h("span", { class: "what" }, `${contentOf(cell)} × ${styleOf(cell.style)}`),
        data.differing.length ? h("span", { class: "how" }, settingsOf(cell)) : null,
        h("span", { class: "loss" }, cell.status === "done" ? `loss ${short(cell.loss)}` : "failed")));
  }

  // Filters: name -> the cells' value, as a select where there is a choice.
  const filters = [
    ["content", (cell) => cell.content, (value) => contentNames.get(value)],
    ["style", (cell) => cell.style, styleOf],
    ...data.differing.map((name) => [name, (cell) => key(cell.settings[name]), (value) => setting(JSON.parse(value))]),
  ].map(([name, of, label]) => {
    const values = distinct(of);
    const select = h("select", { name, onchange: update }, h("option", { value: "" }, "all"), values.map((value, i) => h("option", { value: i }, label(value))));
    return { name, of, values, select };
  }).filter(({ values }) => values.length > 1);
  const search = h("input", { type: "search", name: "search", placeholder: "names, settings, reasons", oninput: update });
  const sort = h("select", { name: "sort", onchange: update }, [["order", "grid’s order"], ["loss", "lowest loss"], ["seconds", "fewest seconds"]].map(([value, text]) => h("option", { value }, text)));
  const hide = h("input", { type: "checkbox", name: "hide", onchange: update });
  const reset = h("button", { type: "button", onclick: () => {
    for (const { select } of filters) select.value = "";
    search.value = ""; sort.value = "order"; hide.checked = false;
    update();
  } }, "Reset");
  const count = h("p", { class: "count", role: "status" });
  const gallery = h("div", {});
  let visible = [];
  page.append(
    h("form", { class: "tools", role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", { class: "search" }, "search", search),
      filters.map(({ name, select }) => h("label", {}, name, select)),
      h("label", {}, "sort by", sort),
      failed ? h("label", { class: "check" }, hide, "hide failed") : null,
      reset),
    count, gallery,
    h("details", {}, h("summary", {}, data.differing.length ? "Settings that all cells share" : "Settings"), h("div", { class: "card" }, table(settingRows(data.settings)))));

  function update() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    visible = cells.filter((cell) =>
      filters.every(({ of, values, select }) => select.value === "" || of(cell) === values[select.value]) &&
      words.every((word) => cell.words.includes(word)) && !(hide.checked && cell.status !== "done"));
    if (sort.value !== "order") {
      const by = (cell) => number(cell[sort.value]) ?? Infinity;
      visible.sort((a, b) => (by(a) === by(b) ? a.order - b.order : by(a) - by(b)));
    }
    count.textContent = visible.length === cells.length ? "" : `${visible.length} of ${plural(cells.length, "cell")}`;
    gallery.replaceChildren(sheet() ?? h("div", { class: `flow ${cells.length <= 60 ? "large" : ""}` }, visible.map((cell) => cell.button)));
    if (!visible.length) gallery.replaceChildren(h("div", { class: "empty" }, cells.length ? "No cell is like that." : "The grid has no cells."));
  }

  /** Contents down, styles across, if one setting is left and most pairs are there; otherwise null. */
  function sheet() {
    const contents = [...new Set(visible.map((cell) => cell.content))], styles = [...new Set(visible.map((cell) => cell.style))];
    const one = new Set(visible.map((cell) => key(cell.settings))).size === 1;
    const full = visible.length * 2 >= contents.length * styles.length;
    if (!one || !full || sort.value !== "order" || contents.length < 2 || styles.length < 2) return null;
    const at = new Map();
    for (const cell of visible) {
      const pair = key([cell.content, cell.style]);
      at.set(pair, [...(at.get(pair) ?? []), cell]);
    }
    const rows = contents.map((content) => styles.map((style) => at.get(key([content, style])) ?? []));
    visible = rows.flat(2);  // as they are read
    return h("div", { class: "sheet", tabindex: 0, role: "group", "aria-label": "Contents down, styles across" }, h("table", {},
      h("thead", {}, h("tr", {}, h("td", {}), styles.map((style) => h("th", { scope: "col" }, breakable(styleOf(style)))))),
      h("tbody", {}, rows.map((line, i) => h("tr", {}, h("th", { scope: "row" }, breakable(contentNames.get(contents[i]))),
        line.map((inside) => h("td", {}, inside.map((cell) => cell.button))))))));
  }

  // One cell in a dialog.

  let current = null;
  const heading = h("h2", {}), position = h("span", { class: "soft" }), body = h("div", { class: "dialog-body" });
  const go = (step) => {
    const next = visible[visible.indexOf(current) + step];
    if (next) open(next);
  };
  const dialog = h("dialog", {
    "aria-labelledby": "cell-title",
    onkeydown: (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      go(step);
    },
    onclick: (event) => { if (event.target === dialog) dialog.close(); },
    onclose: () => current.button.focus(),
  }, h("div", { class: "dialog-bar" }, heading, position,
    h("button", { type: "button", "aria-label": "Previous cell", onclick: () => go(-1) }, "←"),
    h("button", { type: "button", "aria-label": "Next cell", onclick: () => go(1) }, "→"),
    h("button", { type: "button", "aria-label": "Close", onclick: () => dialog.close() }, "✕")), body);
  heading.id = "cell-title";
  page.append(dialog);

  function open(cell) {
    current = cell;
    heading.textContent = `${contentOf(cell)} × ${styleOf(cell.style)}`;
    position.textContent = `${visible.indexOf(cell) + 1} of ${visible.length}`;
    const shown = picture(cell.picture, heading.textContent) ?? h("div", { class: "empty" }, cell.shown.textContent);
    const link = cell.picture && cell.link;
    body.replaceChildren(
      h("div", {}, link ? h("a", { href: cell.link }, shown) : shown,
        h("p", { class: "under" }, cell.picture ? h("span", {}, "A small copy.") : null, link ? h("a", { href: cell.link }, "Open the picture in full size") : null),
        cell.losses.length ? [h("h3", {}, "Loss"), lossOf(cell)] : null),
      h("div", {},
        cell.status === "done" ? table(termRows(cell.terms, cell.loss)) : h("p", { class: "bad" }, `Failed: ${cell.reason ?? "no reason given"}`),
        cell.status === "done" ? [h("h3", {}, "How it went"), table(outcomeRows(cell))] : null,
        h("h3", {}, "Settings"),
        table(settingRows(cell.settings, { class: "differs" }), settingRows(data.settings)),
        h("h3", {}, "Inputs"),
        table(row("content", cell.content), cell.styles.map((path) => row("style", String(path))), row("cell", cell.cell))));
    body.scrollTop = 0;
    if (!dialog.open) dialog.showModal();
  }

  function outcomeRows(cell) {
    return [
      ["evaluations", setting(cell.evaluations)], ["ended by", setting(cell.ended_by)],
      ["seconds", short(cell.seconds)], ["compile seconds", short(cell.compile_seconds)],
      ["convolution", setting(cell.convolution)], ["device", setting(cell.device)], ["jaxstyle", setting(cell.jaxstyle)],
    ].map(([name, value]) => row(name, value));
  }

  function lossOf(cell) {
    const kept = cell.losses.length, all = cell.losses_taken;
    const x = cell.losses.map((_, i) => (kept === all ? i : Math.floor((i * (all - 1)) / (kept - 1))) + 1);
    return curves({
      title: "Loss",
      xs: { Evaluations: x },
      lines: [lossLine("loss", cell.losses.map(number))],
      accepted: cell.losses.map(() => true),
      describe: (i) => `evaluation ${x[i]}`,
      height: 230,
    }).body;
  }
  update();
}

page.replaceChildren();
document.title = `${data.name} – jaxstyle`;
if (data.kind === "run") showRun(); else showGrid();
