"""Every notebook runs from top to bottom in JupyterLab, in a folder that is not its own."""

import pytest

from .conftest import ROOT, run_all

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
LONGEST = 400_000  # milliseconds, on a busy machine
ENDED = """() => {
  const cells = window.jupyterapp.shell.currentWidget.content.widgets.filter((cell) => cell.model.type === 'code');
  const failed = cells.flatMap((cell) => cell.model.outputs.toJSON()).find((output) => output.output_type === 'error');
  if (failed) return `${failed.ename}: ${failed.evalue}`;
  return cells.every((cell) => cell.model.executionCount !== null) && 'done';
}"""


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_all(open_notebook, notebook):
    page = open_notebook(notebook)
    run_all(page)
    assert page.wait_for_function(ENDED, timeout=LONGEST).json_value() == "done"
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.context.close()  # two dozen kernels at once would fill the memory
