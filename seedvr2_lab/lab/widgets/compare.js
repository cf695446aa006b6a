const KEPT = 48; // decoded frames
const FULL_WIDTH = 700; // pixels that smaller clips are enlarged to, at most, by a whole factor
const GAIN = 4; // of the difference; a power of two

function choice(name, title) {
  const label = document.createElement("label");
  const select = document.createElement("select");
  select.dataset.control = name;
  label.append(title, select);
  return [label, select];
}

function slider(name, title, max) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: 0, max, step: 1 });
  input.dataset.control = name;
  const value = document.createElement("output");
  label.append(title, input, value);
  return [label, input, value];
}

const bar = (...parts) => {
  const row = document.createElement("div");
  row.className = "svl-bar";
  row.append(...parts);
  return row;
};

function fill(select, names) {
  select.replaceChildren(...names.map((name, i) => new Option(name, i)));
}

function render({ model, el }) {
  el.classList.add("svl", "svl-compare");
  const [leftLabel, left] = choice("left", "Left");
  const [rightLabel, right] = choice("right", "Right");
  const [viewLabel, view] = choice("view", "View");
  view.append(new Option("divider", "divider"), new Option(`difference × ${GAIN}`, "difference"));
  const [zoomLabel, zoom] = choice("zoom", "Zoom");
  for (const times of [1, 2, 4, 8]) zoom.append(new Option(`${times}×`, times));
  const [frameLabel, frame, frameValue] = slider("frame", "Frame", 0);
  const [dividerLabel, divider, dividerValue] = slider("divider", "Divider", 100);
  const play = document.createElement("button");
  play.dataset.control = "play";
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const table = document.createElement("table");
  const hint = document.createElement("div");
  hint.className = "svl-hint";
  hint.textContent =
    "Keys on the picture: ← → divider · , . frame · space play · + − zoom · shift with arrows moves the part seen · d difference";
  const pair = document.createElement("div");
  pair.className = "svl-pair";
  pair.append(canvas, table);
  el.append(bar(leftLabel, rightLabel, viewLabel, zoomLabel), pair, bar(play, frameLabel, dividerLabel), hint);

  const bitmaps = new Map();
  let asked = 0, timer = null;
  const version = (side) => model.get("versions")[model.get(side)];
  const count = () => model.get("places").length;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  async function bitmap(side, at) {
    const index = model.get(side), key = `${index}:${at}`;
    if (!bitmaps.has(key)) {
      if (bitmaps.size >= KEPT) bitmaps.delete(bitmaps.keys().next().value);
      bitmaps.set(key, createImageBitmap(new Blob([model.get("versions")[index].frames[at]], { type: "image/jpeg" })));
    }
    return bitmaps.get(key);
  }

  // The part of a picture that is seen, as shares of its sides: the same for both versions, whatever their sizes.
  function seen() {
    const side = 1 / model.get("zoom"), [x, y] = model.get("center");
    return [clamp(x - side / 2, 0, 1 - side), clamp(y - side / 2, 0, 1 - side), side];
  }

  async function draw() {
    const turn = ++asked;
    canvas.dataset.asked = turn;
    if (!version("left") || !version("right")) return;
    const at = Math.min(model.get("frame"), count() - 1);
    const [one, other] = await Promise.all([bitmap("left", at), bitmap("right", at)]);
    if (turn !== asked) return; // a newer state is on its way
    const wide = one.width >= other.width ? one : other;
    const factor = Math.max(1, Math.floor(FULL_WIDTH / wide.width));
    if (canvas.width !== wide.width * factor || canvas.height !== wide.height * factor) {
      canvas.width = wide.width * factor;
      canvas.height = wide.height * factor;
    }
    const { width, height } = canvas, pen = canvas.getContext("2d"), [x, y, side] = seen();
    pen.imageSmoothingEnabled = model.get("zoom") * factor < 2; // enlarged, pixels are shown as they are
    const paint = (picture) =>
      pen.drawImage(picture, x * picture.width, y * picture.height, side * picture.width, side * picture.height, 0, 0, width, height);
    const what = [version("left").name, version("right").name];
    paint(one);
    if (model.get("view") === "difference") {
      pen.globalCompositeOperation = "difference";
      paint(other);
      pen.globalCompositeOperation = "lighter";
      for (let gain = 1; gain < GAIN; gain *= 2) pen.drawImage(canvas, 0, 0);
      pen.globalCompositeOperation = "source-over";
    } else {
      const cut = Math.round(model.get("divider") * width);
      pen.save();
      pen.beginPath();
      pen.rect(cut, 0, width - cut, height);
      pen.clip();
      paint(other);
      pen.restore();
      const unit = Math.max(1, width / 640);
      pen.fillStyle = "#000";
      pen.fillRect(cut - 2 * unit, 0, 4 * unit, height);
      pen.fillStyle = "#fff";
      pen.fillRect(cut - unit, 0, 2 * unit, height);
      name(pen, what[0], unit, false, cut);
      name(pen, what[1], unit, true, width - cut);
    }
    const place = model.get("places")[at];
    canvas.setAttribute("aria-label", `frame ${place}: ${what[0]} left, ${what[1]} right of the divider at ${Math.round(100 * model.get("divider"))} %`);
    canvas.dataset.drawn = turn; // that all is seen that was asked for
  }

  // The version's name in its corner, unless its part is too narrow for it.
  function name(pen, text, unit, atRight, room) {
    pen.font = `${13 * unit}px sans-serif`;
    const width = pen.measureText(text).width + 12 * unit;
    if (width > room) return;
    const x = atRight ? canvas.width - width : 0;
    pen.fillStyle = "rgba(0, 0, 0, 0.7)";
    pen.fillRect(x, 0, width, 22 * unit);
    pen.fillStyle = "#fff";
    pen.fillText(text, x + 6 * unit, 16 * unit);
  }

  function scores() {
    const sides = [...new Set([model.get("left"), model.get("right")])].map((i) => model.get("versions")[i]).filter(Boolean);
    const measured = sides.filter((each) => each.frame_scores.length);
    table.hidden = !measured.length;
    if (!measured.length) return;
    const labels = model.get("labels"), at = Math.min(model.get("frame"), count() - 1);
    const row = (cells, tag) => {
      const tr = document.createElement("tr");
      tr.append(...cells.map((text, i) => Object.assign(document.createElement(i ? tag : "th"), { textContent: text })));
      return tr;
    };
    const digits = { psnr: 2 };
    const text = (values, key) => (values[key] == null ? "–" : values[key].toFixed(digits[key] ?? 3));
    const rows = (title, values) => [
      row([title, ...measured.map(() => "")], "th"),
      ...Object.keys(values(measured[0])).map((key) => row([labels[key], ...measured.map((each) => text(values(each), key))], "td")),
    ];
    table.replaceChildren(
      row(["Against the original", ...measured.map((each) => each.name)], "th"),
      ...rows("This frame", (each) => each.frame_scores[at]),
      ...rows("The clip", (each) => each.scores),
    );
  }

  function controls() {
    const last = Math.max(0, count() - 1), at = Math.min(model.get("frame"), last);
    frame.max = last;
    frame.value = at;
    frame.disabled = play.disabled = !last;
    frameValue.textContent = count() ? `${model.get("places")[at]} of ${model.get("places")[last]}` : "";
    divider.value = Math.round(100 * model.get("divider"));
    dividerValue.textContent = `${divider.value} %`;
    left.value = model.get("left");
    right.value = model.get("right");
    view.value = model.get("view");
    zoom.value = model.get("zoom");
    play.textContent = timer ? "⏸ Pause" : "▶ Play";
    canvas.style.cursor = model.get("zoom") > 1 ? "grab" : "ew-resize";
  }

  const update = () => { controls(); scores(); draw(); };
  const set = (key, value) => { model.set(key, value); };
  const keep = () => model.save_changes();
  const step = (by) => set("frame", clamp(model.get("frame") + by, 0, Math.max(0, count() - 1)));
  const toggle = () => {
    if (timer) { clearInterval(timer); timer = null; keep(); }
    else if (count() > 1) timer = setInterval(() => set("frame", (model.get("frame") + 1) % count()), 120);
    controls();
  };
  const slide = (by) => set("divider", clamp(Math.round(100 * (model.get("divider") + by)) / 100, 0, 1));
  const magnify = (up) => set("zoom", clamp(up ? model.get("zoom") * 2 : model.get("zoom") / 2, 1, 8));
  const move = (dx, dy) => {
    const half = 0.5 / model.get("zoom"), [x, y] = model.get("center");
    set("center", [clamp(x + dx, half, 1 - half), clamp(y + dy, half, 1 - half)]);
  };

  left.onchange = () => { set("left", Number(left.value)); keep(); };
  right.onchange = () => { set("right", Number(right.value)); keep(); };
  view.onchange = () => { set("view", view.value); keep(); };
  zoom.onchange = () => { set("zoom", Number(zoom.value)); keep(); };
  frame.oninput = () => set("frame", Number(frame.value));
  divider.oninput = () => set("divider", divider.value / 100);
  frame.onchange = divider.onchange = keep;
  play.onclick = toggle;

  canvas.onkeydown = (event) => {
    const part = 0.1 / model.get("zoom");
    const keys = event.shiftKey
      ? { ArrowLeft: () => move(-part, 0), ArrowRight: () => move(part, 0), ArrowUp: () => move(0, -part), ArrowDown: () => move(0, part), "+": () => magnify(true) }
      : { ArrowLeft: () => slide(-0.02), ArrowRight: () => slide(0.02), ",": () => step(-1), ".": () => step(1), " ": toggle,
          "+": () => magnify(true), "=": () => magnify(true), "-": () => magnify(false),
          d: () => set("view", model.get("view") === "divider" ? "difference" : "divider") };
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    keys[event.key]();
    keep();
    event.preventDefault();
  };

  let held = null; // "divider", or the last place of a hand that moves the zoomed picture
  const share = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  canvas.onpointerdown = (event) => {
    const [x, y] = share(event);
    const near = Math.abs(x - model.get("divider")) * canvas.getBoundingClientRect().width < 16;
    held = model.get("zoom") === 1 || near ? "divider" : [x, y];
    canvas.setPointerCapture(event.pointerId);
    canvas.onpointermove(event);
  };
  canvas.onpointermove = (event) => {
    if (!held) return;
    const [x, y] = share(event);
    if (held === "divider") set("divider", clamp(x, 0, 1));
    else {
      move((held[0] - x) / model.get("zoom"), (held[1] - y) / model.get("zoom"));
      held = [x, y];
    }
  };
  canvas.onpointerup = canvas.onpointercancel = () => { if (held) { held = null; keep(); } };

  const versions = () => {
    bitmaps.clear();
    const names = model.get("versions").map((each) => each.name);
    fill(left, names);
    fill(right, names);
    update();
  };
  model.on("change:versions", versions);
  const watched = ["places", "left", "right", "frame", "divider", "zoom", "center", "view"];
  for (const key of watched) model.on(`change:${key}`, update);
  versions();
  return () => {
    clearInterval(timer);
    model.off("change:versions", versions);
    for (const key of watched) model.off(`change:${key}`, update);
  };
}
export default { render };
