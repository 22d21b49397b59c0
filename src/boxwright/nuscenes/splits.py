"""Which scenes belong to which split: the published lists of nuScenes, and a rule for scenes that are in none.

The lists are facts of the data set (700 / 150 / 150 scenes, and two halves of train for the tracking challenge).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, cast

from boxwright.errors import UserError

SPLITS = ("mini_train", "mini_val", "train", "val", "test", "train_detect", "train_track")
EVERYTHING = "all"
"""The split of every scene that a version has."""

_TRAIN_DETECT = (
    "1-2 41-76 161-168 170-176 190-196 199-200 202-204 206-214 254-264 283-306 315-318 321 323-324 347-375 382 420-439 "
    "457-459 461-465 467-469 471-472 474-480 566 568 570-578 580 582-583 665-679 681 683-689 739-741 744 746-747 "
    "749-752 757-765 767-769 868-873 875-878 880 882-903 945 947 949 952-953 955-961 975-984 988-991 1011-1025 "
    "1074-1102 1104-1105"
)
_TRAIN_TRACK = (
    "4-11 19-34 120-135 138-139 149-152 154-155 157-160 177-185 187-188 218-220 222 224-253 328 376-381 383-386 "
    "388-403 405-408 410-419 440-456 499-502 504-515 517-518 525-539 541-546 584-600 639-664 695-698 700-701 703-719 "
    "726-728 730-731 733-738 786-787 789-792 803-806 808-813 815-817 819-822 847-856 858 860-866 992 994-1010 "
    "1044-1058 1106-1110"
)
_NUMBERS = {
    "mini_train": "61 553 655 757 796 1077 1094 1100",
    "mini_val": "103 916",
    "train": f"{_TRAIN_DETECT} {_TRAIN_TRACK}",
    "val": (
        "3 12-18 35-36 38-39 92-110 221 268-278 329-332 344-346 519-524 552-565 625-627 629-630 632-638 770-771 775 "
        "777-778 780-784 794-800 802 904-917 919-931 962-963 966-969 971-972 1059-1073"
    ),
    "test": (
        "77-91 111-119 140 142-148 265-266 279-282 307-314 333-343 481-498 547-551 601-604 606-624 827-831 833-842 "
        "844-846 932-933 935-943 1026-1043"
    ),
    "train_detect": _TRAIN_DETECT,
    "train_track": _TRAIN_TRACK,
}


@cache
def official_scenes(split: str) -> frozenset[str]:
    """Names of the scenes that nuScenes publishes for a split."""
    ranges = (tuple(map(int, part.split("-"))) for part in _NUMBERS[split].split())
    return frozenset(f"scene-{number:04d}" for ends in ranges for number in range(ends[0], ends[-1] + 1))


def scenes_of_split(split: str, scenes: Sequence[str], folder: Path) -> list[str]:
    """Scenes of a version that belong to a split, in their order.

    A file `splits.json` in the version folder, a mapping of split to scene names, goes before the published lists.
    Where no scene is in any published list, the last fifth of them is val (and mini_val), the rest train; a version
    whose name ends in `test` is then all test.

    Args:
        split: one of SPLITS, or EVERYTHING; with a `splits.json`, a name in it.
        scenes: names of the scenes that the version has, in the order of its samples.
        folder: the version folder.

    Raises:
        UserError: there is no such split, it has none of the scenes, or `splits.json` is no such mapping.
    """
    if split == EVERYTHING:
        return list(scenes)
    own = folder / "splits.json"
    if own.is_file():
        named = _own_splits(own)
        names = tuple(named)
        wanted = frozenset(named.get(split, ()))
    else:
        names = SPLITS
        wanted = _wanted(split, scenes, folder.name) if split in SPLITS else frozenset()
    if split not in names:
        raise UserError(f"{folder} has no split {split}; there are {', '.join((*names, EVERYTHING))}")
    chosen = [scene for scene in scenes if scene in wanted]
    if not chosen:
        there = [name for name in names if name != split and _has(name, scenes, folder, own)]
        other = f"; its scenes are in {', '.join(there)}" if there else ""
        raise UserError(f"{folder} has no scene of the split {split}{other}")
    return chosen


def splits_there(scenes: Sequence[str], folder: Path) -> list[str]:
    """Splits of which a version has scenes."""
    own = folder / "splits.json"
    return [name for name in (tuple(_own_splits(own)) if own.is_file() else SPLITS) if _has(name, scenes, folder, own)]


def usual_splits(scenes: Sequence[str], folder: Path) -> list[str]:
    """Splits that a version is published for: mini_train and mini_val of a mini version, else train, val and test.

    With a `splits.json`, those that it names.
    """
    there = splits_there(scenes, folder)
    if (folder / "splits.json").is_file():
        return there
    usual = ("mini_train", "mini_val") if folder.name.endswith("mini") else ("train", "val", "test")
    return [name for name in usual if name in there] or [EVERYTHING]


def _has(split: str, scenes: Sequence[str], folder: Path, own: Path) -> bool:
    wanted = frozenset(_own_splits(own)[split]) if own.is_file() else _wanted(split, scenes, folder.name)
    return any(scene in wanted for scene in scenes)


def _wanted(split: str, scenes: Sequence[str], version: str) -> frozenset[str]:
    if any(scene in official_scenes(name) for scene in scenes for name in ("train", "val", "test")):
        return official_scenes(split)
    if version.endswith("test"):
        return frozenset(scenes if split == "test" else ())
    held_out = max(len(scenes) // 5, 1) if len(scenes) > 1 else 0
    first = len(scenes) - held_out
    parts = {"train": scenes[:first], "mini_train": scenes[:first], "val": scenes[first:], "mini_val": scenes[first:]}
    return frozenset(parts.get(split, ()))


def _own_splits(file: Path) -> dict[str, list[str]]:
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(names, list) for names in cast("dict[str, Any]", content).values()
    ):
        raise UserError(f"{file} is not a mapping of splits to lists of scene names")
    named = cast("dict[str, list[Any]]", content)
    if not all(isinstance(name, str) for name in chain.from_iterable(named.values())):
        raise UserError(f"{file} is not a mapping of splits to lists of scene names")
    return named
