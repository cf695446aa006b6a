const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 490, HEIGHT = 360; // the most that the picture takes
const CHART = { width: 360, least: 200, left: 40, bottom: 38, top: 28 };

function node(kind, attributes, parent) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent?.append(made);
  return made;
}

function render({ model, el }) {
  el.classList.add("svl", "svl-inspector");
  const summary = document.createElement("div"), extent = document.createElement("div"), pair = document.createElement("div");
  const view = node("svg", { role: "group", "aria-label": "windows of one latent frame" });
  const chart = node("svg", { role: "img", width: CHART.width });
  const hint = document.createElement("div");
  pair.className = "svl-pair";
  summary.className = extent.className = "svl-line";
  hint.className = "svl-hint";
  extent.setAttribute("role", "status");
  hint.textContent = "Point at a window, or press Tab to reach the picture and then the arrow keys.";
  pair.append(view, chart);
  el.append(summary, pair, extent, hint);
  let boxes = [], columns = [], address = null, shown = null;

  const text = (i) => {
    const [t0, t1, h0, h1, w0, w1] = model.get("state").windows[i];
    const tokens = model.get("state").tokens[i].toLocaleString("en");
    return `window ${i + 1} of ${boxes.length}: latent frames ${t0}–${t1 - 1}, rows ${h0}–${h1 - 1}, columns ${w0}–${w1 - 1}: ${t1 - t0} × ${h1 - h0} × ${w1 - w0} = ${tokens} tokens`;
  };

  function mark() {
    const at = model.get("window"), { tokens, columns: spans } = model.get("state");
    boxes.forEach((box, i) => {
      box.classList.toggle("on", i === at);
      box.setAttribute("tabindex", i === Math.max(at, 0) ? 0 : -1); // one stop for Tab, arrows do the rest
    });
    columns.forEach((column, i) => column.classList.toggle("on", at >= 0 && spans[i][0] <= tokens[at] && tokens[at] < spans[i][1]));
    extent.textContent = at >= 0 && boxes[at] ? text(at) : "no window chosen";
  }

  const choose = (i) => {
    if (model.get("window") !== i) { model.set("window", i); model.save_changes(); }
  };

  // The window across that border of this one which is nearest to its middle.
  function neighbour(i, [dy, dx]) {
    const all = model.get("state").windows, here = all[i];
    const y = (here[2] + here[3]) / 2 + (dy * (here[3] - here[2] + 1)) / 2, x = (here[4] + here[5]) / 2 + (dx * (here[5] - here[4] + 1)) / 2;
    const found = all.findIndex(([, , h0, h1, w0, w1]) => h0 <= y && y < h1 && w0 <= x && x < w1);
    return found < 0 ? i : found;
  }

  function draw() {
    const state = model.get("state"), [, H, W] = model.get("grid");
    if (!state.windows) return;
    const unit = Math.min(WIDTH / W, HEIGHT / H);
    const focused = boxes.includes(document.activeElement);
    view.setAttribute("viewBox", `0 0 ${W} ${H}`);
    view.setAttribute("width", W * unit);
    view.setAttribute("height", H * unit);
    view.replaceChildren();
    if (shown !== model.get("picture")) {
      shown = model.get("picture");
      if (address) URL.revokeObjectURL(address);
      address = URL.createObjectURL(new Blob([shown], { type: "image/jpeg" }));
    }
    node("image", { href: address, width: W, height: H, preserveAspectRatio: "none" }, view);
    boxes = state.windows.map(([, , h0, h1, w0, w1], i) => {
      const box = node("rect", { class: "svl-window", x: w0, y: h0, width: w1 - w0, height: h1 - h0, role: "button" }, view);
      box.onpointerenter = box.onfocus = () => choose(i);
      box.onkeydown = (event) => {
        const ways = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
        if (!ways[event.key]) return;
        boxes[neighbour(i, ways[event.key])].focus();
        event.preventDefault();
      };
      return box;
    });
    boxes.forEach((box, i) => box.setAttribute("aria-label", text(i)));
    histogram(state.columns, Math.max(CHART.least, H * unit));
    summary.textContent = state.summary;
    mark();
    if (focused) boxes[0].focus();
  }

  function histogram(spans, height) {
    const { width, left, bottom, top } = CHART;
    const most = Math.max(...spans.map((span) => span[2])), last = spans.at(-1)[1];
    const x = (tokens) => left + (tokens / last) * (width - left - 8);
    const y = (count) => height - bottom - (count / most) * (height - bottom - top);
    chart.replaceChildren();
    chart.setAttribute("height", height);
    chart.setAttribute("aria-label", `histogram: ${spans.filter((s) => s[2]).map((s) => `${s[2]} windows of ${s[0]} to ${s[1] - 1} tokens`).join(", ")}`);
    columns = spans.map(([from, to, count]) => {
      const column = node("rect", { class: "svl-column", x: x(from) + 1, y: y(count), width: Math.max(1, x(to) - x(from) - 2), height: height - bottom - y(count) }, chart);
      node("title", {}, column).textContent = `${count} windows of ${from} to ${to - 1} tokens`;
      return column;
    });
    node("path", { class: "svl-axis", fill: "none", d: `M${left} ${top}V${height - bottom}H${width - 8}` }, chart);
    const label = (content, attributes) => { node("text", attributes, chart).textContent = content; };
    label("windows", { x: 8, y: 18 });
    label(most, { x: left - 6, y: top + 8, "text-anchor": "end" });
    label(0, { x: left - 6, y: height - bottom, "text-anchor": "end" });
    label(0, { x: left, y: height - bottom + 15, "text-anchor": "middle" });
    label((last - 1).toLocaleString("en"), { x: width - 8, y: height - bottom + 15, "text-anchor": "end" });
    label("tokens in a window, all windows of the clip", { x: left + (width - left) / 2, y: height - 6, "text-anchor": "middle" });
  }

  model.on("change:state", draw);
  model.on("change:picture", draw);
  model.on("change:window", mark);
  draw();
  return () => {
    model.off("change:state", draw);
    model.off("change:picture", draw);
    model.off("change:window", mark);
    if (address) URL.revokeObjectURL(address);
  };
}
export default { render };
