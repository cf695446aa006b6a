function render({ model, el }) {
  el.classList.add("svl");
  const label = document.createElement("label");
  const input = document.createElement("input");
  const message = document.createElement("span");
  input.type = "file";
  input.accept = "video/*,image/*,.mkv";
  label.append("Upload ", input);
  message.setAttribute("role", "status");
  el.append(label, " ", message);
  const say = (text) => {
    model.set("message", text);
    model.save_changes();
  };
  const show = () => { message.textContent = model.get("message"); };
  input.addEventListener("change", async () => {
    const file = input.files[0];
    if (!file) return;
    const mb = (bytes) => (bytes / 1e6).toFixed(1);
    if (file.size > model.get("limit")) {
      say(`${file.name} has ${mb(file.size)} MB, more than the ${mb(model.get("limit"))} MB that can be sent: give its path instead`);
    } else {
      say(`sending ${file.name}`);
      model.send({ kind: "file", name: file.name }, undefined, [await file.arrayBuffer()]);
    }
    input.value = "";  // or the same file could not be chosen again
  });
  model.on("change:message", show);
  show();
}
export default { render };
