"""The list of changed formulae follows the code: each text stands where the list says, once."""

from pathlib import Path

import pytest

from tests.mutants.changes import CHANGES, TESTS, Change

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.file} {change.old[:40]}")
def test_a_change_applies_once_and_changes_something(change: Change) -> None:
    assert (ROOT / "src" / "boxwright" / change.file).read_text(encoding="utf-8").count(change.old) == 1
    assert change.old != change.new
    assert all((ROOT / "tests" / name).exists() for name in TESTS[change.file].split())


def test_there_are_sixty() -> None:
    assert len({(change.file, change.old) for change in CHANGES}) == len(CHANGES) >= 60
