"""docs/articles.md has a row for all that the source articles name, and what it names in a row is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from boxwright.cli.parser import verb_flags
from boxwright.systems import SYSTEMS, load_system

ROOT = Path(__file__).resolve().parents[2]
PAGE, FACTS = ROOT / "docs" / "articles.md", ROOT / "docs" / "spec" / "articles.md"
CELLS = re.compile(r"(?<!\\)\|")


class Row(NamedTuple):
    number: str
    article: str
    here: str = ""
    how: str = ""
    test: str = ""


def rows(page: Path) -> list[Row]:
    lines = (line for line in page.read_text(encoding="utf-8").splitlines() if re.match(r"\| \d{3}-\d+ \|", line))
    return [Row(*(cell.strip() for cell in CELLS.split(line)[1:-1])) for line in lines]


ROWS = rows(PAGE)


@cache
def names_in(path: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef))


@cache
def spellings() -> frozenset[str]:
    verbs = (entry for name in SYSTEMS for entry in load_system(name).VERBS.values())
    own = {spelling for entry in verbs for flag in verb_flags(entry) for spelling in flag.names}
    answered = {word for name in SYSTEMS for key in load_system(name).ANSWERS for word in key.split()}
    return frozenset(own | answered | {"--version", "--help"})


def test_the_rows_are_those_of_the_articles() -> None:
    assert [row[:2] for row in rows(PAGE)] == [row[:2] for row in rows(FACTS)]


def wrong_in(row: Row) -> list[str]:
    """What a row lacks or names that is not there."""
    wrong = [] if row.how in ("works", "different") else [f"is {row.how!r}"]
    if len(row.here.split()) < (1 if row.how == "works" else 4):
        wrong.append(f"gives no reason: {row.here!r}")
    for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*[\w]", row.here):
        if flag not in spellings():
            wrong.append(f"names {flag}, which no verb has")
    for test in (part.strip(" `") for part in row.test.split(",")):
        file, _, name = test.partition("::")
        path = ROOT / "tests" / file
        if not path.is_file():
            wrong.append(f"names tests/{file}, which is not there")
        elif name and name not in names_in(path):
            wrong.append(f"names {name}, which is not in tests/{file}")
    return [f"{row.number} {problem}" for problem in wrong]


def test_each_row_says_what_does_it_and_which_test_shows_it() -> None:
    assert [problem for row in ROWS for problem in wrong_in(row)] == []
