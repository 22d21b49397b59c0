"""Tiny data sets on disk for tests."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np


def write_image(path: Path, height: int = 48, width: int = 64, seed: int = 0) -> Path:
    """A random picture; the folder is made, any characters in the path work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def turn(path: Path, orientation: int, order: str = "<") -> Path:
    """Give a JPEG file an Exif block with this orientation, in this byte order."""
    mark = {"<": b"II", ">": b"MM"}[order]
    tiff = mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    block = b"Exif\0\0" + tiff
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:])
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


def voc_object(name: str, xmin: object, ymin: object, xmax: object, ymax: object, extra: str = "") -> str:
    """One object of a VOC annotation, on a line of its own."""
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>\n"


def write_voc(root: Path, annotations: Mapping[str, str | None], split: str = "train", head: str = "") -> Path:
    """A VOC folder with one split: stem to the objects of its annotation (None: no file)."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (root / f"ImageSets/Main/{split}.txt").write_text("".join(f"{stem}\n" for stem in annotations))
    for seed, (stem, objects) in enumerate(annotations.items()):
        write_image(root / f"JPEGImages/{stem}.jpg", seed=seed)
        if objects is not None:
            (root / f"Annotations/{stem}.xml").write_text(f"{head}<annotation>\n{objects}</annotation>")
    return root
