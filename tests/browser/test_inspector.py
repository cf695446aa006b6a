"""The window inspector in JupyterLab and Notebook 7: controls, hover, arrow keys, light and dark."""

import nbformat
import pytest

from .conftest import PAGES, ROOT, run_all, screenshot, scroll_to, set_theme, wait_until_idle

NOTEBOOK = ROOT / "notebooks" / "01_windows_and_attention.ipynb"


@pytest.fixture(scope="module", params=PAGES)
def page(request, open_notebook, tmp_path_factory):
    """The notebook up to the inspector's static twin."""
    notebook = nbformat.read(NOTEBOOK, 4)
    twin = next(i for i, cell in enumerate(notebook.cells) if "figure = stamp(windows_picture(" in cell.source)
    notebook.cells = [cell for cell in notebook.cells[: twin + 1] if cell.cell_type == "code"]
    path = tmp_path_factory.mktemp("inspector") / "inspector.ipynb"
    nbformat.write(notebook, path)
    page = open_notebook(path, request.param)
    run_all(page)
    page.locator(".svl-inspector .svl-window").first.wait_for()
    wait_until_idle(page)
    show(page)
    page.kind = request.param
    return page


def show(page) -> None:
    scroll_to(page, ".svl-inspector")


def windows(page, count: int):
    page.wait_for_function(f"document.querySelectorAll('.svl-inspector .svl-window').length === {count}")
    return page.locator(".svl-inspector .svl-window")


def windows_follow_the_controls(page):
    windows(page, 9)
    for theme in ("Light", "Dark"):
        set_theme(page, theme)
        show(page)
        screenshot(page, f"inspector_{theme.lower()}_{page.kind}")
    set_theme(page, "Light")
    page.get_by_label("Layers", exact=True).select_option("odd: shifted")
    windows(page, 16)
    page.get_by_label("Windows", exact=True).select_option("global")
    windows(page, 1)
    page.get_by_label("Windows", exact=True).select_option("fixed")
    page.get_by_label("Resolution", exact=True).select_option("1080p 1920×1088")
    windows(page, 15)
    page.get_by_label("Windows", exact=True).select_option("adaptive")
    page.get_by_label("Layers", exact=True).select_option("even: regular")
    page.get_by_label("Resolution", exact=True).select_option("720p 1280×720")
    windows(page, 9)


def hover_tells_the_extent_and_marks_the_column(page):
    show(page)
    boxes = windows(page, 9)
    boxes.nth(0).hover()
    page.locator(
        ".svl-inspector [role=status]", has_text="rows 0–14, columns 0–26: 7 × 15 × 27 = 2,835 tokens"
    ).wait_for()
    assert page.locator(".svl-inspector .svl-window.on").count() == 1
    assert page.locator(".svl-inspector .svl-column.on").count() == 1
    screenshot(page, f"inspector_hover_{page.kind}")


def arrows_walk_over_the_windows(page):
    windows(page, 9)
    page.locator(".svl-inspector .svl-window[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.locator(".svl-inspector [role=status]", has_text="columns 27–53").wait_for()
    page.keyboard.press("ArrowDown")
    page.locator(".svl-inspector [role=status]", has_text="rows 15–29, columns 27–53").wait_for()
    assert "on" in page.evaluate("document.activeElement.getAttribute('class')")
    screenshot(page, f"inspector_focus_{page.kind}")
    page.get_by_label("Layers", exact=True).focus()
    page.keyboard.press("ArrowDown")
    windows(page, 16)
    page.locator(".svl-inspector .svl-window[tabindex='0']").focus()
    page.keyboard.press("Shift+Tab")  # back to the controls above
    assert page.evaluate("document.activeElement.className").startswith("widget-readout")


def test_the_inspector(page):
    windows_follow_the_controls(page)
    hover_tells_the_extent_and_marks_the_column(page)
    arrows_walk_over_the_windows(page)
