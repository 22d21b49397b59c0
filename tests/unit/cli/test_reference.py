"""docs/settings.md is made from the settings classes."""

from pathlib import Path

from boxwright.cli.reference import reference

PAGE = Path(__file__).resolve().parents[3] / "docs" / "settings.md"


def test_the_page_is_current() -> None:
    says = "run: python -m boxwright.cli.reference > docs/settings.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), says


def test_a_row_says_everything_of_a_setting() -> None:
    row = next(row for row in reference().splitlines() if row.startswith("| `augment.mosaic` |"))
    assert row == "| `augment.mosaic` | `--augment.mosaic` | `1.0` | from 0 to 1 | probability of a mosaic |"
    meaning = "keep images of training and validation in memory or on disk"
    assert f"| `cache` | `--cache` |  | ram, disk; alone: ram | {meaning} |" in reference()
