"""Truncations and flipped bits of every file that is trusted later: each is told, mended, or without effect."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from boxwright.checkpoints.native import load_checkpoint, save_checkpoint
from boxwright.checkpoints.safetensors_file import read_safetensors, write_safetensors
from boxwright.data.dataset import open_dataset
from boxwright.data.index import ARRAYS, DataIndex
from boxwright.data.source_images import SourceImages, with_cache
from boxwright.errors import UserError
from tests.unit.data.small_sets import write_yolo


@dataclass
class Kept:
    """A file of one of our formats, and how it is read."""

    file: Path
    read: Callable[[], Any]  # gives plain values; remakes what is a cache


def plain(value: Any) -> Any:
    """Tensors and arrays as values that can be compared."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), list(value.shape), value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def content_of(index: DataIndex) -> list[Any]:
    """All that an index says."""
    arrays = [[name, getattr(index, name).tobytes()] for name in ARRAYS]
    return [index.names, index.category_ids, arrays, [str(problem) for problem in index.problems]]


def kept_files(root: Path) -> dict[str, Kept]:
    """Write one file of each format below a folder; caches go to `root / "cache"`."""
    root.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    state = {"a.weight": torch.randn(8, 3, 3, 3), "a.bias": torch.randn(8), "n": torch.tensor(3)}
    described = {"spec": {"nc": 2}, "names": ["a", "b"], "strides": [8, 16], "imgsz": [64, 64]}
    last, best, weights = root / "last.pt", root / "best.pt", root / "w.safetensors"
    run = {"config": {}, "epoch": 1, "engine": {"run": {"epoch": 1}}}
    save_checkpoint(last, run | {"model": described, "state_dict": state, "ema": state})
    save_checkpoint(best, {"model": described, "state_dict": state, "metrics": {"epoch": 1.0}})
    write_safetensors(weights, state, described)
    yaml = write_yolo(root / "set", {"a": "0 .5 .5 .2 .2\n1 .3 .3 .1 .1\n", "b": "bad row\n"})
    cache = root / "cache"
    index = open_dataset(yaml, "train", cache_dir=cache)
    source = SourceImages(index, 64)
    images = with_cache(source, "disk", cache_folder=cache)
    images.load(0)
    (index_file,), (image_file,) = cache.glob("*.index"), cache.glob("*.npy")
    return {
        "last.pt": Kept(last, lambda: plain(load_checkpoint(last))),
        "best.pt": Kept(best, lambda: plain(load_checkpoint(best))),
        "safetensors": Kept(weights, lambda: plain(read_safetensors(weights))),
        "index": Kept(index_file, lambda: content_of(open_dataset(yaml, "train", cache_dir=cache))),
        "image cache": Kept(image_file, lambda: with_cache(source, "disk", cache_folder=cache).load(0).tobytes()),
    }


def damaged(content: bytes, count: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield a content cut off, then with one bit flipped, each `count` times at places spread over the file.

    Every other flip is in the first or last 2 kB, where a format has its names and sizes.
    """
    for length in rng.integers(0, len(content), count).tolist():
        yield f"cut to {length}", content[:length]
    for number in range(count):
        low, high = ((0, len(content)), (0, min(2048, len(content))), (max(len(content) - 2048, 0), len(content)))[
            (0, 1, 0, 2)[number % 4]
        ]
        at, bit = int(rng.integers(low, high)), int(rng.integers(8))
        yield f"bit {bit} of byte {at}", content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def audit_damage(root: Path, count: int, seed: int = 0) -> dict[str, Counter[str]]:
    """Damage each format; return how often that was told, without effect (or mended), or taken in silence."""
    rng, found = np.random.default_rng(seed), dict[str, Counter[str]]()
    for name, kept in kept_files(root).items():
        content, true, counts = kept.file.read_bytes(), kept.read(), Counter[str]()
        for what, changed in damaged(content, count, rng):
            kept.file.write_bytes(changed)
            try:
                verdict = "no effect" if kept.read() == true else f"SILENT: {what}"
            except UserError:
                verdict = "told"
            counts[verdict] += 1
            kept.file.write_bytes(content)
        found[name] = counts
    return found


def main(count: int, root: Path) -> bool:
    """Print the figures; return whether nothing was taken in silence."""
    found = audit_damage(root, count)
    print(json.dumps(found, indent=1))
    return not any(verdict.startswith("SILENT") for counts in found.values() for verdict in counts)
