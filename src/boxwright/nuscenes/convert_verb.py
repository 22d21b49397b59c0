"""Splits of a nuScenes version written in the COCO style that the published CenterFusion reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from boxwright.errors import UserError
from boxwright.nuscenes.convert import write_published
from boxwright.nuscenes.index import open_nuscenes
from boxwright.nuscenes.split import NuscenesSplit
from boxwright.nuscenes.splits import usual_splits


def convert_nuscenes(
    source: str | Path, target: str | Path, version: str, *, sweeps: int = 3, allow_missing: bool = False
) -> Iterator[tuple[Path, int, int]]:
    """Write each split as `TARGET/annotations_{N}sweeps/SPLIT.json`, or `TARGET/annotations/SPLIT.json` for one sweep.

    A file that is there is written anew. The published converter writes 6 sweeps while its training reads 3; here one
    number names both folder and content.

    Args:
        source: nuScenes root.
        target: folder, which may be the root itself.
        version: folder of its tables.
        sweeps: radar sweeps to gather, at least 1.
        allow_missing: leave out images and radar sweeps whose files are not there.

    Yields:
        the file, its number of images and of annotations, split by split.

    Raises:
        UserError: the version cannot be read, files are missing, or the target cannot be written.
    """
    if sweeps < 1:
        raise UserError(f"convert nuscenes --sweeps takes 1 or more, not {sweeps}")
    index = open_nuscenes(source, version, allow_missing=allow_missing)
    folder = Path(target).expanduser() / ("annotations" if sweeps == 1 else f"annotations_{sweeps}sweeps")
    for split in usual_splits(index.scenes, index.folder):
        file = folder / f"{split}.json"
        yield file, *write_published(NuscenesSplit(index, split, sweeps), file)
