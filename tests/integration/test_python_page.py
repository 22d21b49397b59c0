"""docs/python.md: its blocks run one after another, in a folder as the page describes it."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from boxwright.checkpoints.native import save_checkpoint
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.test_readme import examples
from tests.unit.inference.test_sources import make_video

PAGE = "docs/python.md"
BLOCKS = examples(PAGE, "python")
LIBRARIES = ("pandas", "supervision", "fiftyone")  # which the project itself does not need


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8), (96, 64))
    for name in ("images", "labels"):
        (folder / name).mkdir()
    cv2.imwrite(str(folder / "photo.jpg"), image)
    for number in range(3):
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), image + number)
        (folder / "labels" / f"{number}.txt").write_text("0 .5 .5 .2 .2\n")
    (folder / "data.yaml").write_text("train: images\nval: images\nnames: [box]\n")
    make_video(folder / "clip.mp4", 4)
    model = build_model(load_spec("yolov5n", 1), ["box"])
    # Random weights find nothing: every objectness is raised, so that there is something to show.
    for layer in model.head.m:
        layer.bias.data += 4
    content = {"model": model.describe(), "state_dict": model.state_dict(), "ema": None}
    save_checkpoint(folder / "best.pt", content)
    return folder


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the blocks have defined so far."""
    return {"__name__": "page"}


def test_the_page_has_blocks() -> None:
    assert len(BLOCKS) >= 10
    imported = {word for block in BLOCKS for word in re.findall(r"^import (\w+)", block, re.MULTILINE)}
    assert imported >= set(LIBRARIES)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(folder: Path, names: dict[str, Any], number: int) -> None:
    for library in LIBRARIES:
        if f"import {library}" in BLOCKS[number] and importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    with contextlib.chdir(folder):
        exec(compile(BLOCKS[number], f"{PAGE}, block {number + 1}", "exec"), names)
    if "result" in names:
        assert len(names["result"]) > 0
