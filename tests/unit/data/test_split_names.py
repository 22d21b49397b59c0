"""Words in names that tell a split."""

from __future__ import annotations

from pathlib import Path

import pytest

from boxwright.data.split_names import by_folder, split_of


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["train2017"], "train"),
        (["x", "Valid"], "val"),
        (["instances_test"], "test"),
        (["Validation", "train"], "val"),
        (["strain", "latest", "values"], None),
    ],
)
def test_words(names: list[str], split: str | None) -> None:
    assert split_of(names) == split


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "bus"], ["train", "train"]),  # a class, not a split
        (["", "val"], ["train", "val"]),
        (["train", "valid", "other"], ["train", "val", None]),
    ],
)
def test_folders(folders: list[str], splits: list[str | None]) -> None:
    root = Path("train/data")
    assert list(by_folder([root / folder / "x.jpg" for folder in folders], root)) == splits
