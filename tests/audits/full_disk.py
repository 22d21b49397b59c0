"""A full disk at each file that a verb writes: one line that names it, code 2, nothing half-written, no traceback."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from boxwright.cli.main import main as boxwright
from tests.integration.small_runs import write_world

PICTURES = ("labels.jpg", "train_batch0.jpg", "results.png", "PR_curve.png", "confusion_matrix.png", "val_batch0.jpg")
TRAIN = ("config.yaml", "events.jsonl", "log.log", "tfevents", "results.csv", "last.pt", "best.pt", "metrics.json")
PREDICT = ("labels/", "predictions.json", "classes.txt", "label_studio.json", "crops/", "image 0.jpg", "log.log")


@contextlib.contextmanager
def full_disk_at(word: str) -> Generator[None]:
    """Let every write to a path that holds a word go to /dev/full, where there is never room.

    Only what Python opens: libraries that write files by themselves are given files or bytes here.
    """
    real_open, real_io = os.open, io.open
    writes = os.O_WRONLY | os.O_RDWR

    def is_full(path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and word in os.fspath(path)

    def open_full(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if is_full(path) and flags & writes and not flags & os.O_EXCL:
            return real_open("/dev/full", flags & ~(os.O_CREAT | os.O_NOFOLLOW))
        return real_open(path, flags, *args, **kwargs)

    def io_full(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return real_io("/dev/full" if is_full(path) and set(mode) & set("wa+") else path, mode, *args, **kwargs)

    os.open, io.open = open_full, io_full  # type: ignore[assignment]
    try:
        yield
    finally:
        os.open, io.open = real_open, real_io


def try_verb(root: Path, word: str, argv: list[str]) -> str:
    """Run a verb with a full disk at a file; return what was wrong, empty if nothing was."""
    said = io.StringIO()
    try:
        with full_disk_at(word), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = boxwright(argv)
    except BaseException as error:
        return f"{argv[0]}, {word}: {type(error).__name__}: {error}"
    last = (said.getvalue().strip().splitlines() or [""])[-1]
    left = [file.name for file in root.rglob(".*") if file.name.endswith(".tmp")]
    if code != 2 or word.strip("/") not in last or "no space left" not in last.lower() or left:
        return f"{argv[0]}, {word}: code {code}, left {left}: {last}"
    return ""


def audit_full_disk(root: Path, words: dict[str, tuple[str, ...]]) -> tuple[int, list[str]]:
    """Try verbs with a full disk at each of some files; return the number of trials and what was wrong."""
    data, network = write_world(root, num_images=6)
    shared = ["--device", "cpu", "--imgsz", "64", "--project", str(root / "runs")]
    train = ["train", "--data", str(data), "--model", str(network), "--epochs", "1", "--batch-size", "3", *shared]
    train += ["--workers", "0"]
    assert boxwright([*train, "--noplots", "--name", "good"]) == 0
    weights = root / "runs" / "good" / "weights" / "best.pt"
    images = str(data.parent / "images" / "train")
    predict = [
        "predict",
        "--weights",
        str(weights),
        "--source",
        images,
        "--conf-thres",
        "0",
        "--save-txt",
        "--save-json",
    ]
    verbs = {
        "train": train,
        "train --noplots": [*train, "--noplots"],
        "val": ["val", "--weights", str(weights), "--data", str(data), "--workers", "0", *shared],
        "predict": [*predict, "--save-crop", "--label-studio", "--save-log", "--max-det", "3", *shared],
        "export": ["export", "--weights", str(weights), "--include", "torchscript", "--imgsz", "64"],
        "convert": ["convert", "weights", str(weights), str(root / "copy.safetensors")],
        "anchors": ["anchors", "--data", str(data), "--model", str(network), "--gen", "10", *shared[2:]],
    }
    wrong = [try_verb(root, word, verbs[verb]) for verb, files in words.items() for word in files]
    return len(wrong), list(filter(None, wrong))


ALL = {
    "train": (*PICTURES, "report.html"),
    "train --noplots": TRAIN,
    "val": ("metrics.json", *PICTURES[3:], "report.html"),
    "predict": PREDICT,
    "export": ("torchscript",),
    "convert": ("copy.safetensors",),
    "anchors": ("anchors.yaml", "anchors.png"),
}


def main(root: Path) -> bool:
    """Print the figures; return whether all was well."""
    torch.set_num_threads(1)
    trials, wrong = audit_full_disk(root, ALL)
    print(f"full disk at {trials} files, {len(wrong)} wrong", *wrong, sep="\n")
    return not wrong
