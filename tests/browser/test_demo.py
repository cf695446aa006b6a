"""The restoration demo in JupyterLab and Notebook 7: upload, run, look, save, cancel, all by keyboard once."""

import re
import time
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter

from .conftest import PAGES, ROOT, WINDOW, screenshot, scroll_to, set_theme

NOTEBOOK = ROOT / "notebooks" / "20_demo_restore.ipynb"
STEP = """async ([control, values]) => {
  const canvas = document.querySelector('.svl-compare canvas');
  const input = document.querySelector(`.svl-compare [data-control=${control}]`);
  const spent = [];
  for (const value of values) {
    const before = canvas.dataset.drawn, began = performance.now();
    input.value = value;
    input.dispatchEvent(new Event('input'));
    while (canvas.dataset.drawn === before) await new Promise((done) => setTimeout(done, 0));
    canvas.getContext('2d').getImageData(0, 0, 1, 1); // waits until it is painted
    spent.push(performance.now() - began);
  }
  return spent;
}"""
FIRST_PICTURE = """async () => {
  const cells = window.jupyterapp.shell.currentWidget.content.widgets.filter((cell) => cell.model.type === 'code');
  const imports = cells[1];
  const last = performance.now() + 60000;
  const until = async (ready) => {
    while (!ready()) {
      if (performance.now() > last) throw new Error('no picture after a minute');
      await new Promise((done) => setTimeout(done, 5));
    }
  };
  window.jupyterapp.commands.execute('notebook:run-all-cells');
  await until(() => imports.model.executionCount !== null);
  const began = performance.now();
  await until(() => document.querySelector('.svl-compare canvas[data-drawn]'));
  return performance.now() - began;
}"""  # milliseconds from the end of the import cell
PIXELS = "document.querySelector('.svl-compare canvas').toDataURL('image/png')"
SETTLED = "(({ asked, drawn }) => asked === drawn)(document.querySelector('.svl-compare canvas').dataset)"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A small real clip: 160x90, so that its restoration has 640x360."""
    import torch

    from seedvr2_lab.media.clips import camera_clip, load_picture
    from seedvr2_lab.media.degrade import resize

    path = tmp_path_factory.mktemp("clips") / "coffee.mp4"
    large = camera_clip(load_picture("coffee"), 2, (360, 600), torch.Generator().manual_seed(0)).transpose(0, 1)
    frames = (resize(large, (90, 160)) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    with VideoWriter(path, 90, 160, rate=5) as writer:
        writer.write(frames)
    return path


@pytest.fixture(scope="module", params=PAGES)
def page(request, open_notebook):
    page = open_notebook(NOTEBOOK, request.param)
    page.kind = request.param
    spent = page.evaluate(FIRST_PICTURE)
    print(f"{page.kind}: first picture {spent / 1000:.1f} s after the import cell")
    wait_for_status(page, "done")
    page.set_default_timeout(45_000)
    return page


def wait_for_status(page, text: str) -> None:
    page.locator(".jp-OutputArea [role=status]").filter(has_text=re.compile(text)).first.wait_for()


def pixels(page) -> np.ndarray:
    page.wait_for_function(SETTLED)
    png = b64decode(page.evaluate(PIXELS).partition(",")[2])
    return np.asarray(Image.open(BytesIO(png)))[..., :3]


def field(page, label: str):
    return page.get_by_label(label, exact=True).first


def button(page, text: str):
    return page.locator("button.jupyter-button", has_text=re.compile(rf"{text}$"))  # an icon's sign stands before it


def choose(page, control: str, value: str) -> None:
    page.locator(f".svl-compare [data-control={control}]").select_option(value)


def center(page) -> tuple[float, float, float]:
    canvas = page.locator(".svl-compare canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    return box["x"], box["y"] + box["height"] / 2, box["width"]


def drag(page, start: float, end: float) -> None:
    x, y, width = center(page)
    page.mouse.move(x + start * width, y)
    page.mouse.down()
    page.mouse.move(x + end * width, y, steps=8)
    page.mouse.up()


def run_all_shows_a_result_and_its_static_twin(page):
    assert page.locator(".svl-compare select[data-control=left] option").count() == 3
    page.locator(".jp-OutputArea-output img").first.wait_for(state="attached")  # drawn after the result is shown
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    for theme in ("Light", "Dark"):
        set_theme(page, theme)
        scroll_to(page, ".svl-compare")
        screenshot(page, f"demo_{theme.lower()}_{page.kind}")
    set_theme(page, "Light")
    page.set_viewport_size({"width": WINDOW["width"], "height": 1200})
    scroll_to(page, ".svl-compare")
    demo = page.locator(".jp-OutputArea-output", has=page.locator(".svl-compare")).first
    if page.kind == "lab":  # the README's picture
        assert screenshot(demo, "demo").stat().st_size < 400_000
    overflow = demo.evaluate("(node) => node.scrollWidth - node.clientWidth")
    assert overflow <= 1, "clipped at a width of 1280"
    page.set_viewport_size(WINDOW)


def upload_run_and_look(page, clip):
    field(page, "Clip").select_option(label="a file (path or upload)")
    page.locator(".svl input[type=file]").set_input_files(clip)
    wait_for_status(page, "received coffee.mp4")
    field(page, "Degrade").select_option("as it is")
    button(page, "Run").click()
    wait_for_status(page, "done: 2 frames of 640×360")
    choose(page, "view", "divider")
    assert pixels(page).shape == (360, 640, 3)

    drag(page, 0.5, 0.2)
    at_left = pixels(page)
    drag(page, 0.2, 0.8)
    at_right = pixels(page)
    changed = (at_left != at_right)[24:].any(axis=(0, 2)).nonzero()[0]  # below the names
    assert len(changed) > 200 and 100 < changed.min() < changed.max() < 540  # between the two places alone

    first = pixels(page)
    spent = {"divider": page.evaluate(STEP, ["divider", list(range(20, 80, 3))])}
    page.evaluate(STEP, ["divider", [80]])
    spent["scrub"] = page.evaluate(STEP, ["frame", [1, 0, 1, 0, 1, 0, 1]])
    for name, times in spent.items():
        print(f"{name}: median {np.median(times):.1f} ms, most {max(times):.1f} ms a step at 640x360")
    assert (first != pixels(page)).mean() > 0.2  # another frame

    page.locator(".svl-compare canvas").focus()
    whole = pixels(page)
    choose(page, "zoom", "4")
    assert (whole != pixels(page)).mean() > 0.2
    choose(page, "left", "1")  # the same version on both sides: no difference at any zoom
    choose(page, "view", "difference")
    assert pixels(page).max() == 0
    choose(page, "left", "0")
    assert pixels(page).max() > 0
    choose(page, "view", "divider")
    page.locator(".svl-compare canvas").scroll_into_view_if_needed()
    screenshot(page, f"demo_upload_zoomed_{page.kind}")
    choose(page, "zoom", "1")

    page.set_viewport_size({"width": WINDOW["width"], "height": 400})  # low for this picture, as for a portrait
    box = page.locator(".svl-compare canvas").bounding_box()
    assert box["height"] <= 300 and abs(box["width"] / box["height"] - 16 / 9) < 0.02
    page.set_viewport_size(WINDOW)


def save_and_read_back(page, lab):
    name = f"saved_{page.kind}.mp4"
    field(page, "Save as").fill(name)
    field(page, "Save as").press("Tab")
    page.get_by_role("button", name="Save video").click()
    wait_for_status(page, "saved /")
    info = VideoReader(lab[0] / name).info
    assert (info.frames, info.height, info.width, info.rate) == (2, 360, 640, 5)
    page.get_by_role("button", name="Show code and command").click()
    page.locator("pre", has_text="seedvr2-lab restore").wait_for()


def two_results_of_one_clip_are_compared(page):
    field(page, "Colours").select_option("none")
    button(page, "Run").click()
    page.wait_for_function("document.querySelectorAll('.svl-compare [data-control=left] option').length === 3")
    choose(page, "left", "1")
    names = [
        page.locator(f".svl-compare [data-control={side}] option:checked").inner_text() for side in ("left", "right")
    ]
    assert names[0].endswith("wavelet") and names[1].endswith("none")
    choose(page, "view", "difference")
    assert pixels(page).max() > 0
    choose(page, "view", "divider")


def a_file_too_large_is_refused_in_the_browser(page, tmp_path):
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(9_000_000))
    page.locator(".svl input[type=file]").set_input_files(large)
    wait_for_status(page, "large.mp4 has 9.0 MB, more than the 8.0 MB .* give its path instead")
    assert "large" not in field(page, "Path").input_value()
    large.write_bytes(bytes(7_999_000))  # just small enough: it arrives
    page.locator(".svl input[type=file]").set_input_files(large)
    wait_for_status(page, "received large.mp4")


def cancel_leaves_what_was_shown(page):
    field(page, "Clip").select_option("flower")
    field(page, "Frames").fill("100")
    field(page, "Frames").press("Tab")
    button(page, "Run").click()
    wait_for_status(page, "^restore")
    began = time.perf_counter()
    button(page, "Cancel").click()
    wait_for_status(page, "cancelled")
    print(f"{page.kind}: cancelled {time.perf_counter() - began:.1f} s after the click")
    names = page.locator(".svl-compare [data-control=left] option").all_inner_texts()
    assert not any(name.startswith("3:") or name.startswith("4:") for name in names)
    button(page, "Run").click(trial=True)  # waits until it can be pressed again


def the_keyboard_alone_is_enough(page):
    field(page, "Clip").focus()
    page.keyboard.press("Home")  # chelsea
    field(page, "Frames").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("2")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # from "as it is" to "by hand"
    page.locator(".noUi-handle").first.wait_for()
    blur = page.locator(".noUi-handle").first
    blur.focus()
    before = float(blur.get_attribute("aria-valuenow"))
    page.keyboard.press("ArrowRight")
    assert float(blur.get_attribute("aria-valuenow")) > before
    field(page, "Frames").focus()
    for _ in range(40):  # Tab goes through all controls; Run comes before the picture
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").endswith("Run"):
            break
    else:
        pytest.fail("Tab never reached Run")
    page.keyboard.press("Enter")
    wait_for_status(page, "done: 2 frames of 256×144")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "CANVAS":
            break
    else:
        pytest.fail("Tab never reached the picture")
    states = [pixels(page)]
    for key in ("ArrowRight", ",", "+", "Shift+ArrowRight", "d"):
        for _ in range(3 if key == "ArrowRight" else 1):
            page.keyboard.press(key)
        states.append(pixels(page))
        assert (states[-1] != states[-2]).any(), f"{key} changed nothing"
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"  # the notebook's own keys kept out of it
    page.keyboard.press("Space")
    page.locator(".svl-compare [data-control=play]", has_text="Pause").wait_for()
    page.keyboard.press("Space")
    for control, key in (("zoom", "Home"), ("divider", "ArrowLeft"), ("frame", "End")):
        box = page.locator(f".svl-compare [data-control={control}]")
        before = box.input_value()
        box.focus()
        page.keyboard.press(key)
        assert box.input_value() != before, f"{key} did not reach {control}"


def the_parts_have_names(page):
    unnamed = page.evaluate("""() => [...document.querySelectorAll('.svl input, .svl select')]
        .filter((node) => !node.labels?.length).map((node) => node.outerHTML)""")
    assert unnamed == []
    assert page.locator(".svl-compare canvas").get_attribute("aria-label").startswith("frame ")


def a_click_gives_the_picture_the_keys(page):
    choose(page, "view", "divider")
    page.mouse.click(center(page)[0] + 20, center(page)[1])
    before = pixels(page)
    page.keyboard.press("ArrowRight")
    assert (pixels(page) != before).any()
    assert page.evaluate("document.activeElement.tagName") == "CANVAS"


def test_the_demo(page, clip, lab, tmp_path):
    """One test, for each step begins where the one before ended."""
    run_all_shows_a_result_and_its_static_twin(page)
    upload_run_and_look(page, clip)
    save_and_read_back(page, lab)
    two_results_of_one_clip_are_compared(page)
    a_file_too_large_is_refused_in_the_browser(page, tmp_path)
    cancel_leaves_what_was_shown(page)
    the_keyboard_alone_is_enough(page)
    the_parts_have_names(page)
    a_click_gives_the_picture_the_keys(page)
