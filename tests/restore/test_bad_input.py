"""Whatever cannot be restored is answered in one line with status 2; nothing is written, nothing is touched."""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from seedvr2_lab.cli import main
from seedvr2_lab.media.video_writer import VideoWriter


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder of good and bad files."""
    folder = tmp_path_factory.mktemp("room")
    random = np.random.default_rng(0)
    with VideoWriter(folder / "clip.mp4", 16, 20, Fraction(25)) as writer:
        writer.write(random.integers(0, 255, (6, 16, 20, 3), dtype=np.uint8))
    Image.fromarray(random.integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(folder / "picture.png")
    Image.fromarray(np.full((8, 9, 4), 99, np.uint8)).save(folder / "alpha.png")
    Image.fromarray(np.full((8, 9), 99, np.float32)).save(folder / "floats.tif")
    pages = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    (folder / "text.mp4").write_text("this is no video\n")
    (folder / "text.png").write_text("this is no picture\n")
    (folder / "empty.mp4").touch()
    (folder / "empty.png").touch()
    (folder / "cut.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:300])
    (folder / "cut.png").write_bytes((folder / "picture.png").read_bytes()[:80])
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (folder / "nothing").mkdir()
    for name, sizes in {"frames": [(8, 9), (8, 9)], "mixed": [(8, 9), (9, 9)], "spoilt": [(8, 9)]}.items():
        (folder / name).mkdir()
        for i, size in enumerate(sizes):
            Image.fromarray(np.full((*size, 3), 50 * i, np.uint8)).save(folder / name / f"{i}.png")
    (folder / "spoilt" / "1.png").write_text("no picture")
    (folder / "twice").mkdir()
    for name in ("a.avi", "a.mp4"):
        shutil.copyfile(folder / "clip.mp4", folder / "twice" / name)
    for name in ("half", "other", "foreign"):
        (folder / f"{name}.mp4.partial").mkdir()
        (folder / f"{name}.mp4.partial" / "000000.mkv").touch()
        (folder / f"{name}.mp4.partial" / ("notes" if name == "foreign" else "job.json")).write_text('{"seed": 99}')
    return folder


FILES = [  # source, target, options, what the line names
    ("missing.mp4", "out.mp4", "", "missing.mp4"),
    ("text.mp4", "out.mp4", "", "text.mp4"),
    ("empty.mp4", "out.mp4", "", "empty.mp4"),
    ("cut.mp4", "out.mp4", "", "cut.mp4"),
    ("sound.mp4", "out.mp4", "", "sound.mp4"),
    ("text.png", "out.png", "", "text.png"),
    ("empty.png", "out.png", "", "empty.png"),
    ("cut.png", "out.png", "", "cut.png"),
    ("alpha.png", "out.png", "", "alpha channel"),
    ("floats.tif", "out.png", "", "32-bit"),
    ("pages.tif", "out.png", "", "2 pictures"),
    ("nothing", "out", "", "no video and no picture"),
    ("nothing", "out.mp4", "", "no picture"),
    ("mixed", "out.mp4", "", "one size"),
    ("spoilt", "out", "", "1.png"),
    ("spoilt", "out.mp4", "", "1.png"),
    ("twice", "out", "", "rename one"),
    ("frames", "frames", "", "no folder for the results"),
    ("frames", "picture.png", "--overwrite", "a picture but"),
    ("frames", "no/such/out", "", "no/such"),
    ("clip.mp4", "no/such/out.mp4", "", "no/such"),
    ("clip.mp4", "out.xyz", "", "out.xyz"),
    ("clip.mp4", "out.png", "", "a picture but"),
    ("clip.mp4", "clip.mp4", "", "exists"),
    ("clip.mp4", "clip.mp4", "--overwrite", "the source itself"),
    ("clip.mp4", "clip.mp4", "--resume", "exists"),
    ("clip.mp4", "frames", "--overwrite", "folder in use"),
    ("clip.mp4", "half.mp4", "", "unfinished run"),
    ("clip.mp4", "foreign.mp4", "--overwrite", "move it away"),
    ("clip.mp4", "other.mp4", "--resume --chunk 3", "begun with another"),
]
OPTIONS = [
    ("--scale 0", "scale"),
    ("--scale -2", "scale"),
    ("--scale nan", "scale"),
    ("--scale 17", "scale"),
    ("--scale 2 --height 30", "give one of them"),
    ("--scale 2 --area 100x100", "give one of them"),
    ("--height 0", "height"),
    ("--height -5", "height"),
    ("--height 2.5", "2.5"),
    ("--width 0", "width"),
    ("--width 99999999", "smaller size"),
    ("--height 60000 --width 60000", "try --chunk|smaller size"),
    ("--area 0x10", "area"),
    ("--area large", "area"),
    ("--area 10x10x10", "area"),
    ("--model huge", "tiny"),
    ("--model ROOM/text.mp4", "text.mp4"),
    ("--codec mjpeg", "h264"),
    ("--codec h265 --height 40", "h265"),
    ("--codec lossless --tile 12", "tile"),
    ("--device gpu9", "gpu9"),
    ("--dtype int8", "int8"),
    ("--seed -1", "seed"),
    ("--seed one", "seed"),
    ("--steps 0", "steps"),
    ("--guidance nan", "guidance"),
    ("--guidance 3", "negative text"),
    ("--strength 1.5", "strength"),
    ("--strength nan", "strength"),
    ("--color sepia", "wavelet"),
    ("--chunk 0", "chunk"),
    ("--overlap -1", "overlap"),
    ("--overlap 12", "half a chunk"),
    ("--chunk 5 --overlap 4", "rounded up to 5"),
    ("--tile 8", "tile"),
    ("--start -1", "start"),
    ("--start 9", "lasts 0.24 s"),
    ("--start inf", "start"),
    ("--end 0", "end"),
    ("--start 0.1 --end 0.1", "end"),
    ("--rate 25", "rate"),
    ("--rate nan", "rate"),
    ("--unheard-of", "--help"),
]


@pytest.mark.parametrize(
    ("source", "target", "options", "word"),
    FILES + [("clip.mp4", "out.mp4", *case) for case in OPTIONS],
    ids=lambda value: str(value).replace(" ", "_"),
)
def test_one_line_status_2_and_nothing_touched(room, capsys, source, target, options, word):
    before = {path: path.read_bytes() for path in sorted(room.rglob("*")) if path.is_file()}
    arguments = ["restore", str(room / source), str(room / target), *options.replace("ROOM", str(room)).split()]
    try:
        status = main(arguments)
    except SystemExit as stop:  # argparse's own way
        status = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1 and any(one in lines[0] for one in word.split("|")), lines
    assert {path: path.read_bytes() for path in sorted(room.rglob("*")) if path.is_file()} == before
    assert not (room / "out").exists()
