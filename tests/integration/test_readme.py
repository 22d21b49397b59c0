"""Every code example of the documentation is run, on small data and for one epoch."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.cli.parser import Parser
from boxwright.yolo import system
from boxwright.yolo.zoo import build_model, load_spec

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
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


def examples(document: str, language: str) -> list[str]:
    return [code for lang, code in FENCE.findall((ROOT / document).read_text(encoding="utf-8")) if lang == language]


def commands(document: str) -> list[str]:
    blocks = (block.replace("\\\n", "") for block in examples(document, "bash"))
    lines = (line.partition(" #")[0].strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README supposes: data.yaml with images and labels, yolov5n.pt, photo.jpg."""
    folder = tmp_path_factory.mktemp("read me ü")
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(count):
            image = random.integers(0, 80, (96, 128, 3), dtype=np.uint8)
            x, y = random.integers(0, 80, 2)
            image[y // 2 : y // 2 + 40, x : x + 40] = 220
            ok, jpeg = cv2.imencode(".jpg", image)
            assert ok
            (folder / "images" / split / f"{number}.jpg").write_bytes(jpeg.tobytes())
            row = f"0 {(x + 20) / 128:.5f} {(y // 2 + 20) / 96:.5f} {40 / 128:.5f} {40 / 96:.5f}\n"
            (folder / "labels" / split / f"{number}.txt").write_text(row)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [box]\n")
    (folder / "photo.jpg").write_bytes((folder / "images" / "val" / "0.jpg").read_bytes())
    model = build_model(load_spec("yolov5n", 1), ["box"])
    about = {"spec": model.spec.to_mapping(), "names": list(model.names), "strides": list(model.strides)}
    content = {"format": "boxwright", "version": 1, "model": about, "state_dict": model.state_dict(), "ema": None}
    save_checkpoint(folder / "yolov5n.pt", content)
    return folder


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and output of the commands of the README one after another, as its reader would type them."""
    done: dict[str, tuple[int, str]] = {}
    with contextlib.chdir(folder):
        for command in commands("README.md"):
            if command.startswith("boxwright "):
                smaller = command
                for written, small in SMALLER.items():
                    smaller = smaller.replace(written, small)
                said = io.StringIO()
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    done[command] = (main(shlex.split(smaller)[1:]), said.getvalue())
    return done


@pytest.mark.parametrize("command", [c for c in commands("README.md") if c.startswith("boxwright ")])
def test_a_command_of_the_readme_works(results: dict[str, tuple[int, str]], command: str) -> None:
    code, said = results[command]
    assert code == 0, said[-3000:]


def test_there_are_five_first_commands() -> None:
    section = (
        (ROOT / "README.md")
        .read_text(encoding="utf-8")
        .partition("## Five commands for YOLOv5 users")[2]
        .partition("\n## ")[0]
    )
    (block,) = (code for language, code in FENCE.findall(section) if language == "bash")
    assert len(block.splitlines()) == 5
    assert commands("README.md")[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("number", range(len(examples("README.md", "python"))))
def test_python_of_the_readme_works(folder: Path, results: dict[str, tuple[int, str]], number: int) -> None:
    assert results
    done = run(folder, sys.executable, "-c", examples("README.md", "python")[number])
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_named_targets_and_files_exist(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(document):
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE), command
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists() or target in ("docs/demo.jpg", "docs/fusion.jpg"), (
            f"{document} points at {target}"
        )


@pytest.mark.parametrize("command", commands("docs/scale.md"))
def test_the_flags_of_a_command_for_many_machines_are_known(command: str) -> None:
    """What it does there is tested by test_distributed.py and test_evolve.py."""
    words = shlex.split(command)
    _, verb, *flags = words[words.index("boxwright") :]
    assert Parser(verb, system).read(flags)
