"""Tiny data sets on disk for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    """A random picture; the folder is made, any characters in the path work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def write_yolo(root: Path, labels: Mapping[str, str | None], names: str = "[a, b]", split: str = "train") -> Path:
    """Images `stem.jpg` with these label texts (None: no file) and a data yaml that uses them for both splits."""
    for seed, (stem, text) in enumerate(labels.items()):
        write_image(root / "images" / split / f"{stem}.jpg", seed=seed)
        if text is not None:
            file = root / "labels" / split / f"{stem}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    yaml = root / "data.yaml"
    yaml.write_text(f"train: images/{split}\nval: images/{split}\nnames: {names}\n")
    return yaml
