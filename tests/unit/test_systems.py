"""What is missing is said before a verb is imported, all of it at once."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import boxwright as bw
from boxwright.cli.main import main
from boxwright.errors import UserError

WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; import boxwright.cli.main as m; sys.exit(m.main(sys.argv[1:]))"
)


def answer(folder: Path, command: str) -> tuple[int, str]:
    """Run the command line where torch cannot be imported."""
    argv = [sys.executable, "-c", WITHOUT_TORCH, *shlex.split(command)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train", ["needs --data DATA, and --model MODEL or --weights PT"]),
        ("train --weights gone.pt", ["needs --data DATA (", "no weights at gone.pt", "docs/weights.md"]),
        ("train --model yolov5n --data gone.yaml", ["no data set gone.yaml"]),
        ("train --model centerfusion-dla34 --weights gone.pth", ["needs --data DIR", "no weights at gone.pth"]),
        ("val", ["needs --weights PT and --data DATA"]),
        ("val --weights a.pt b.pt --data gone.yaml", ["at a.pt", "at b.pt", "no data set gone.yaml"]),
        (
            "val --model centerfusion-dla34 --weights gone.pth --data nowhere",
            ["at gone.pth", "nowhere is not a folder"],
        ),
        ("predict", ["needs --weights PT and --source SOURCE"]),
        ("predict --weights gone.onnx", ["needs --source SOURCE (", "no weights at gone.onnx"]),
        ("predict --model centerfusion-dla34", ["needs --weights FILE, and --data DIR or --source SOURCE"]),
        ("export", ["needs --weights PT"]),
        ("export --weights gone.pt", ["no weights at gone.pt"]),
        ("export --model centerfusion-dla34", ["needs --weights FILE"]),
        ("evolve --model yolov5n", ["needs --data DATA or --study NAME"]),
        ("anchors", ["needs DATA"]),
        ("check", ["needs DATA"]),
        ("bench op", ["needs --op MODULE or --model MODEL"]),
        ("convert data", ["needs IN and OUT and --to"]),
    ],
)
def test_all_that_is_missing_is_said_without_torch(tmp_path: Path, command: str, says: list[str]) -> None:
    code, text = answer(tmp_path, command)
    assert code == 2, text
    assert len(text.splitlines()) == 1
    assert all(part in text for part in says), text
    assert not list(tmp_path.iterdir())


def labelled(folder: Path, images: int) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(images):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), np.zeros((32, 32, 3), np.uint8))
        (folder / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text("train: images\nval: images\nnames: [thing]\n")
    return folder / "data.yaml"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        # 5 steps an epoch; a warm-up has 100 steps at least.
        ("--epochs 4", "lasts 100 steps, the run 20 (4 epochs of 5 steps)"),
        ("--epochs 20", "for more than 20 epochs\n"),
        ("--epochs 21", ""),
        ("--epochs 40 --optim.warmup_epochs 50", "for more than 50 epochs, or lower --optim.warmup_epochs"),
        ("--epochs 1 --batch-size 10", "(1 epoch of 1 step)"),
        ("--epochs 4 --optim.schedule one-cycle", ""),
    ],
)
def test_a_warm_up_longer_than_the_run_is_said_without_torch(tmp_path: Path, flags: str, says: str) -> None:
    data = labelled(tmp_path / "set", 10)
    code, text = answer(tmp_path, f"train --model yolov5n --data {data} --batch-size 2 {flags}")
    assert code == 1  # as torch is not there
    assert says in text
    assert ("the run ends in its warm-up" in text) == bool(says)


def test_only_the_first_process_looks_for_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others, perhaps on another machine, get the weights from it."""
    monkeypatch.setenv("RANK", "1")
    _, text = answer(tmp_path, "train --weights gone.pt --data gone.yaml")
    assert "no weights" not in text
    assert "needs --data" in answer(tmp_path, "train --weights gone.pt")[1]


def test_python_gets_the_same_sentence() -> None:
    with pytest.raises(UserError, match=r"needs --source SOURCE .* no weights at gone\.pt"):
        bw.predict("gone.pt")


def test_a_measured_file_needs_no_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["val", "--json", "gone.json"]) == 2
    assert re.search("needs --annotations|gone.json", capsys.readouterr().err)
