"""The examples of README and of the site's pages are run, on small data and for one epoch; marked ones are parsed."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.cli.parser import Parser
from boxwright.errors import UserError
from boxwright.systems import SYSTEMS, load_system
from boxwright.yolo.zoo import build_model, load_spec

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(<!-- parsed only: .+ -->\n)?```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# A command that several pages have is run once, in the order of this list. docs/python.md: test_python_page.py.
PAGES = [
    *(
        "README.md",
        "docs/index.md",
        "docs/install.md",
        "docs/start.zh.md",
        "docs/reference/models.md",
        "docs/fusion.md",
    ),
    *("docs/tutorials/training.md", "docs/data.md", "docs/tutorials/labels.md", "docs/tutorials/export.md"),
    *("docs/tutorials/tune.md", "docs/tutorials/video.md", "docs/tutorials/new_loss.md"),
    "docs/tutorials/examples.md",
    *("docs/reference/checkpoints.md", "docs/weights.md", "docs/results.md", "docs/scale.md"),
]
PARSED = {"docs/scale.md"}  # what its commands do is tested by test_distributed.py and test_evolve.py
SMALLER = {
    "--epochs 100": "--epochs 1",
    "--img 640": "--img 64",
    "--batch 16": "--batch 4",
    "--include onnx torchscript openvino": "--imgsz 64 --include onnx torchscript",  # the third: test_network.py
    "v5x@": "v5s@",
    "--generations 300": "--generations 2",
    "--scenes 10": "--scenes 2 --key-frames 2 --width 160",
    "--imgsz 448 800": "--imgsz 64 128 --network.width 0.125",
    "--batch-size 32": "--batch-size 4",
    "--epochs 60": "--epochs 1",
}


class Example(NamedTuple):
    page: str
    code: str  # a command, or a block of Python
    parsed_only: bool


def blocks(page: str, language: str) -> list[Example]:
    found = FENCE.findall((ROOT / page).read_text(encoding="utf-8"))
    return [Example(page, code, bool(mark) or page in PARSED) for mark, lang, code in found if lang == language]


def examples(page: str, language: str) -> list[str]:
    return [block.code for block in blocks(page, language)]


def commands(page: str) -> list[Example]:
    """List the commands of a page, each without its comment."""
    found = [(block, line) for block in blocks(page, "bash") for line in block.code.replace("\\\n", "").splitlines()]
    stripped = [(block, line.partition(" #")[0].strip()) for block, line in found]
    return [block._replace(code=line) for block, line in stripped if line]


COMMANDS = [command for page in PAGES for command in commands(page)]
RUN = list(dict.fromkeys(c.code for c in COMMANDS if c.code.startswith("boxwright ") and not c.parsed_only))
PYTHON = [block for page in PAGES for block in blocks(page, "python")]


def write_boxes(folder: Path, number: int, random: np.random.Generator) -> tuple[int, int]:
    """Write a photo of 128 x 96 with a bright square of 40 pixels; return where."""
    image = random.integers(0, 80, (96, 128, 3), dtype=np.uint8)
    x, y = random.integers(0, 80, 2)
    image[y // 2 : y // 2 + 40, x : x + 40] = 220
    ok, jpeg = cv2.imencode(".jpg", image)
    assert ok
    (folder / f"{number}.jpg").write_bytes(jpeg.tobytes())
    return int(x), int(y) // 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages suppose: data.yaml with images and labels, photos with LabelImg's xml, yolov5n.pt, photo.jpg."""
    folder = tmp_path_factory.mktemp("read me ü")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(count):
            x, y = write_boxes(folder / "images" / split, number, random)
            row = f"0 {(x + 20) / 128:.5f} {(y + 20) / 96:.5f} {40 / 128:.5f} {40 / 96:.5f}\n"
            (folder / "labels" / split / f"{number}.txt").write_text(row)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [box]\n")
    (folder / "photo.jpg").write_bytes((folder / "images" / "val" / "0.jpg").read_bytes())
    (folder / "photos").mkdir()
    for number in range(6):
        x, y = write_boxes(folder / "photos", number, random)
        sides = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + 40}</xmax><ymax>{y + 40}</ymax>"
        size = "<size><width>128</width><height>96</height><depth>3</depth></size>"
        (folder / "photos" / f"{number}.xml").write_text(
            f"<annotation><filename>{number}.jpg</filename>{size}"
            f"<object><name>box</name><difficult>0</difficult><bndbox>{sides}</bndbox></object></annotation>"
        )
    model = build_model(load_spec("yolov5n", 1), ["box"])
    about = {"spec": model.spec.to_mapping(), "names": list(model.names), "strides": list(model.strides)}
    content = {"format": "boxwright", "version": 1, "model": about, "state_dict": model.state_dict(), "ema": None}
    save_checkpoint(folder / "yolov5n.pt", content)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and output of the commands one after another, as a reader would type them."""
    done: dict[str, tuple[int, str]] = {}
    with contextlib.chdir(folder):
        for command in RUN:
            smaller = command
            for written, small in SMALLER.items():
                smaller = smaller.replace(written, small)
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                done[command] = (main(shlex.split(smaller)[1:]), said.getvalue())
    return done


@pytest.mark.parametrize("command", RUN)
def test_a_command_works(results: dict[str, tuple[int, str]], command: str) -> None:
    code, said = results[command]
    if command == "boxwright check photos":  # as the page says: it has no validation split yet
        assert code == 1
        assert "problems: 1 missing split" in said
    else:
        assert code == 0, said[-3000:]


@pytest.mark.parametrize("command", [c.code for c in COMMANDS if c.parsed_only and "boxwright " in c.code])
def test_the_flags_of_a_command_that_is_not_run_are_known(command: str) -> None:
    words = shlex.split(command.replace(".venv/bin/", ""))
    words = words[words.index("boxwright") + 1 :]
    told: list[str] = []
    for system in map(load_system, SYSTEMS):
        verb = next((verb for verb in system.VERBS if words[: len(verb.split())] == verb.split()), None)
        if verb is not None:
            try:
                Parser(verb, system).read(words[len(verb.split()) :])
            except UserError as error:
                told.append(str(error))
            else:
                return
    raise AssertionError(f"{command}: {told or 'there is no such verb'}")


@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_a_command_names_was_begun_on_its_page(page: str) -> None:
    """`runs/train/NAME` is that of a training of the page, or the first one."""
    text = " ".join(command.code for command in commands(page)) + " ".join(examples(page, "python"))
    begun = {"exp", *re.findall(r"--name (\S+)", text)}
    assert set(re.findall(r"runs/\w+/(\w+)/", text)) <= begun


def test_there_are_five_first_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Five commands for YOLOv5 users")[2].partition("\n## ")[0]
    (block,) = (code for _, language, code in FENCE.findall(section) if language == "bash")
    assert len(block.splitlines()) == 5
    assert [command.code for command in commands("README.md")][:2] == ["make demo", "make test"]
    assert len(readme.splitlines()) <= 120


@pytest.mark.parametrize("page", list(dict.fromkeys(block.page for block in PYTHON)))
def test_python_of_a_page_works(folder: Path, results: dict[str, tuple[int, str]], page: str) -> None:
    """The blocks of a page run one after another."""
    assert results
    names: dict[str, Any] = {"__name__": "page"}
    with contextlib.chdir(folder):
        for number, code in enumerate(examples(page, "python"), 1):
            exec(compile(code, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *PAGES[1:]])
def test_named_targets_and_files_exist(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in (command.code.split()[1] for command in commands(document) if command.code.startswith("make ")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), f"{document} points at {target}"
