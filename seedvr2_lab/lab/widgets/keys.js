// JupyterLab and Notebook 7 take plain keys anywhere in a notebook for commands of their own: an arrow on a slider or in
// a list would choose another cell. They leave an element alone that has this attribute; keys with Ctrl, Alt or Meta go on
// to them.
function render({ el }) {
  const keep = (event) => {
    const plain = !(event.ctrlKey || event.altKey || event.metaKey);
    if (el.parentElement?.contains(event.target)) event.target.toggleAttribute("data-lm-suppress-shortcuts", plain);
  };
  window.addEventListener("keydown", keep, true); // before theirs, which is the document's
  return () => window.removeEventListener("keydown", keep, true);
}
export default { render };
