"""Recorded numbers ("golden vectors"): where they lie, which cases there are, and how a case is read.

A part of them lies in this folder; the suite needs no more. BOXWRIGHT_GOLDEN names a folder with more of the same kinds
(BOXWRIGHT_GOLDEN_HUB one for the hub models); a file there replaces the one of the same name here.
Tests find the cases from the files; none is listed in a test.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SHARED = (ROOT / os.environ.get("BOXWRIGHT_SHARED", "../shared")).resolve()


def _more() -> dict[str, Path]:
    """Folders with more cases, by family."""
    found: dict[str, Path] = {}
    if named := os.environ.get("BOXWRIGHT_GOLDEN"):
        more = (ROOT / named).resolve()
        found = {"yolo": more / "yolo", "centerfusion": more / "centerfusion", "hub": SHARED / "golden_hub"}
    if named := os.environ.get("BOXWRIGHT_GOLDEN_HUB"):
        found["hub"] = (ROOT / named).resolve()
    return found


MORE = _more()


def golden_cases(area: str, pattern: str, family: str = "yolo") -> list[Any]:
    """One pytest parameter (the file) for each file of the area that fits the glob.

    family: `yolo`; `hub`; or `centerfusion`, whose files lie in no area ("").
    """
    files = {file.name: file for file in (HERE / family / area).glob(pattern)}
    if family in MORE:
        files |= {file.name: file for file in (MORE[family] / area).glob(pattern)}
    assert files, f"no golden vectors {family}/{area}/{pattern}"
    return [pytest.param(files[name], id=files[name].stem) for name in sorted(files)]


def read_case(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the scalars of one case: <stem>.npz and <stem>.json, either may be absent."""
    npz, meta = file.with_suffix(".npz"), file.with_suffix(".json")
    arrays: dict[str, np.ndarray] = {}
    if npz.exists():
        with np.load(npz) as stored:
            for entry in stored.files:
                name, _, pieces = entry.rstrip("~").partition("=")
                arrays[name] = _joined(file.parent, pieces, stored[entry]) if pieces else _whole(stored, entry)
    return arrays, json.loads(meta.read_text()) if meta.exists() else {}


def _whole(stored: Any, entry: str) -> np.ndarray:
    """An array of an archive; where the name ends in ~, the bytes of the numbers lie apart (they pack better so)."""
    values: np.ndarray = stored[entry]
    if not entry.endswith("~"):
        return values
    return np.ascontiguousarray(np.moveaxis(values, 0, -1)).view(f"<f{len(values)}")[..., 0]


def _joined(folder: Path, pieces: str, shape: np.ndarray) -> np.ndarray:
    """An array that several cases share, or that is long: `name=PIECE+PIECE` holds its shape."""
    flat: list[np.ndarray] = []
    for piece in pieces.split("+"):
        with np.load(folder / "common" / f"{piece}.npz") as stored:
            flat.append(_whole(stored, stored.files[0]))
    return np.concatenate(flat).reshape(shape)


def recorded(arrays: dict[str, np.ndarray], name: str) -> tuple[tuple[slice, ...], np.ndarray]:
    """What is stored of an array, and which part of the whole it is: `name@1x3` has every third row of each image."""
    if name in arrays:
        return (), arrays[name]
    (stored,) = (key for key in arrays if key.startswith(f"{name}@"))
    steps = stored.partition("@")[2].split("x")
    return tuple(slice(None, None, int(step)) for step in steps), arrays[stored]


def assert_recorded(
    found: np.ndarray, arrays: dict[str, np.ndarray], name: str, channels: slice = slice(None), **tolerance: float
) -> None:
    """Compare the stored part, `channels` of the last axis."""
    part, expected = recorded(arrays, name)
    np.testing.assert_allclose(found[part][..., channels], expected[..., channels], **tolerance, err_msg=name)


@cache
def _unpacked(archive: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="boxwright-golden-"))
    with zipfile.ZipFile(archive) as content:
        content.extractall(folder)
    for entry in json.loads((folder / "v1.0-mini" / "sample_data.json").read_text()):
        path = folder / entry["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # files that no vector reads must be there all the same
    return folder


def nuscenes_tiny(folder: Path) -> Path:
    """The root of the small nuScenes set that lies beside the vectors of CenterFusion."""
    root = folder / "nuscenes-tiny"
    return root if root.is_dir() else _unpacked(folder / "nuscenes-tiny.zip")
