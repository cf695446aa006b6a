"""The claim explorer in JupyterLab and Notebook 7, on the published reports: plot and crops follow every control."""

import hashlib
import time

import pytest

from seedvr2_lab.lab.claims import CLAIMS, finished_reports
from seedvr2_lab.lab.widgets.explorer import explorable

from .conftest import PAGES, ROOT, SETTLE, run_all, screenshot, scroll_to, set_theme, wait_until_idle

NOTEBOOK = ROOT / "notebooks" / "90_report.ipynb"
SHOWN = {name[:2] for name in explorable(finished_reports(ROOT / "notebooks" / "reports", "laptop"))}
PICTURE = """async (image) => {
  await image.decode();
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  canvas.getContext('2d').drawImage(image, 0, 0);
  return canvas.toDataURL('image/png');
}"""


@pytest.fixture(scope="module", params=PAGES)
def page(request, open_notebook):
    if "11" not in SHOWN:
        pytest.skip("the report of notebook 11 is not published here")
    page = open_notebook(NOTEBOOK, request.param)
    run_all(page)
    page.locator(".svl-explorer img").first.wait_for()
    wait_until_idle(page)
    scroll_to(page, ".svl-explorer")
    page.kind = request.param
    return page


def pictures(page) -> dict[str, str]:
    """Plot and crops as they are seen, as fingerprints of their pixels."""
    images = page.locator(".svl-explorer img")
    assert images.count() == 2
    return {
        name: hashlib.sha256(images.nth(i).evaluate(PICTURE).encode()).hexdigest()
        for i, name in enumerate(("plot", "crops"))
    }


def assert_changed(page, before: dict[str, str], expected: set[str]) -> None:
    """These and no others become different."""
    found, deadline = set(), time.monotonic() + SETTLE / 1000
    while not expected <= found and time.monotonic() < deadline:
        page.wait_for_timeout(200)
        found = {name for name, now in pictures(page).items() if now != before[name]}
    wait_until_idle(page)
    page.wait_for_timeout(200)
    assert {name for name, now in pictures(page).items() if now != before[name]} == expected


def field(page, label: str):
    return page.locator(".svl-explorer").get_by_label(label, exact=True).first


def select(page, label: str, *names: str) -> None:
    field(page, label).select_option(label=list(names) if len(names) > 1 else names[0])


def select_claim(page, name: str) -> None:
    titles = (title.replace("\xa0", " ") for title in field(page, "Claim").locator("option").all_inner_texts())
    select(page, "Claim", next(title for title in titles if title.startswith(f"{name}:")))


def it_begins_with_a_claim_that_can_be_shown(page):
    first = next(claim for claim in CLAIMS if claim.notebook in SHOWN)
    assert field(page, "Report").locator("option:checked").inner_text().startswith(first.notebook)
    assert page.locator(".svl-explorer img").count() == 2
    stderr = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']")
    assert stderr.count() == 0
    for theme in ("Light", "Dark"):
        set_theme(page, theme)
        scroll_to(page, ".svl-explorer")
        screenshot(page, f"explorer_{theme.lower()}_{page.kind}")
    set_theme(page, "Light")
    overflow = page.locator(".svl-explorer").evaluate("(node) => node.scrollWidth - node.clientWidth")
    assert overflow <= 1, "clipped at a width of 1280"


def plot_and_crops_follow_the_mouse(page):
    before = pictures(page)
    select_claim(page, "l1, psnr")
    assert_changed(page, before, {"plot", "crops"})
    assert set(field(page, "Arms").locator("option:checked").all_inner_texts()) == {"+l1", "rpgan"}

    for label, names, expected in (
        ("Arms", ["bicubic", "apt", "full"], {"plot", "crops"}),
        ("Meters", ["texture"], {"plot"}),
        ("Frames", ["5"], {"plot"}),
    ):
        before = pictures(page)
        select(page, label, *names)
        assert_changed(page, before, expected)
    before = pictures(page)
    box = page.locator(".svl-explorer .slider").bounding_box()
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    assert_changed(page, before, {"crops"})


def plot_and_crops_follow_the_keyboard(page):
    for label, key, expected in (
        ("Claim", "ArrowDown", {"plot", "crops"}),
        ("Meters", "Home", {"plot"}),
        ("Arms", "Home", {"plot", "crops"}),
    ):
        before = pictures(page)
        field(page, label).focus()
        page.keyboard.press(key)
        assert_changed(page, before, expected)
    before = pictures(page)
    page.locator(".svl-explorer .noUi-handle").focus()
    page.keyboard.press("ArrowLeft")
    assert_changed(page, before, {"crops"})
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.querySelector('.svl-explorer select[multiple]')"):
            break
    else:
        pytest.fail("Tab never reached the arms")


def a_claim_without_arms_says_so(page):
    claim = next((claim for claim in CLAIMS if claim.notebook not in SHOWN), None)
    if claim is None:  # all are finished
        return
    select_claim(page, claim.id)
    page.locator(".svl-explorer [role=status]", has_text=f"no arms of notebook {claim.notebook} to show").wait_for()
    assert not page.locator(".svl-explorer img").first.is_visible()


def test_the_explorer(page):
    """One test, for each step begins where the one before ended."""
    it_begins_with_a_claim_that_can_be_shown(page)
    plot_and_crops_follow_the_mouse(page)
    plot_and_crops_follow_the_keyboard(page)
    a_claim_without_arms_says_so(page)
