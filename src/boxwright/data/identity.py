"""Whether the data of a resumed run is that of its beginning, wherever it lies by now.

A checkpoint notes of each split how many images it has, and digests of what they are: `images` of their names and sizes
in any order, `order` of the same in their order, `labels` of what is annotated.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from boxwright.errors import UserError

_log = logging.getLogger("boxwright.train")


def digest(parts: Iterable[bytes]) -> str:
    """Return a short digest of byte strings, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()[:32]


def describe_images(images: Iterable[bytes], labels: Iterable[bytes]) -> dict[str, Any]:
    """Describe a split for a checkpoint.

    Args:
        images: what tells an image from others, without its folder.
        labels: the annotations.
    """
    named = list(images)
    return {"count": len(named), "images": digest(sorted(named)), "order": digest(named), "labels": digest(labels)}


class _Split(Protocol):
    """A split of a data set of any system."""

    def describe(self) -> dict[str, Any]: ...


def describe_data(train: _Split, val: _Split | None) -> dict[str, dict[str, Any]]:
    """Describe both splits of a run for its checkpoints."""
    return {"train": train.describe()} | ({"val": val.describe()} if val is not None else {})


def check_same_data(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]], place: str, *, moved: bool
) -> None:
    """Compare the data of a run with what it began with.

    Args:
        before: what its checkpoint has noted, by split; nothing in checkpoints of earlier versions.
        now: the same of what was read now.
        place: where that lies, for messages.
        moved: the user says that it lies there now; else it lies where it did, and may have been edited on purpose.

    Raises:
        UserError: it was moved and its images are others.
    """
    if moved and not before:
        _log.warning("the checkpoint does not note its images: of %s only the classes were compared", place)
    for split in filter(now.__contains__, before):
        ours, theirs = before[split], now[split]
        if ours["images"] != theirs["images"]:
            others = f"{theirs['count']} images, not {ours['count']}"
            if ours["count"] == theirs["count"]:
                others = f"{ours['count']} images as well, but of other names or sizes"
            text = f"{place} is not the data that this run was started with: its {split} split has {others}"
            if moved:
                raise UserError(f"{text}; train on it by a new run with --weights")
            _log.warning("%s; what follows is not what the run would have been", text)
        elif ours["labels"] != theirs["labels"] or ours["order"] != theirs["order"]:
            what = "labels" if ours["labels"] != theirs["labels"] else "order of images"
            _log.warning("%s: the %s of the %s split changed since this run was started", place, what, split)
