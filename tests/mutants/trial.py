"""One change in one copy of the project, in a process that has the libraries already but nothing of the project."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from queue import Queue

import pytest

from tests.mutants.changes import TESTS, Change

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "docs", "examples", "pyproject.toml", "README.md")


class FirstFailure:
    """A plugin of pytest that keeps the name of the first test that failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


def run(tree: Path, tests: list[str]) -> str:
    """Run tests of a tree, in a process of its own, until one fails; give its name, empty: none failed."""
    os.chdir(tree)
    for name in [key for key in os.environ if key.startswith("BOXWRIGHT")]:
        del os.environ[name]
    os.environ["PYTHONPATH"] = str(tree / "src")
    sys.path[:0] = [str(tree), str(tree / "src")]
    for name in [key for key in sys.modules if key.partition(".")[0] == "tests"]:
        del sys.modules[name]  # those of the copy are to be imported
    with (tree.parent / "output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    failure = FirstFailure()
    arguments = ["-x", "-q", "--rootdir", str(tree), "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)]
    code = pytest.main(arguments, plugins=[failure])
    if sys.modules["boxwright"].__file__ != str(tree / "src" / "boxwright" / "__init__.py"):
        raise RuntimeError("the tests did not import the copy")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or (code and not failure.name):
        raise RuntimeError(f"the tests did not run: {(tree.parent / 'output.txt').read_text()[-3000:]}")
    return failure.name.removeprefix("tests/")


def try_tests(trees: Queue[str], tests: list[str]) -> str:
    """Name the first of some tests that fails where nothing is changed; empty: none does."""
    tree = trees.get()
    try:
        return run(Path(tree), tests)
    finally:
        trees.put(tree)


def try_change(trees: Queue[str], change: Change) -> str:
    """Name the test that fails for a change; empty: none does."""
    tree = Path(trees.get())
    path = tree / "src" / "boxwright" / change.file
    text = path.read_text(encoding="utf-8")
    assert text.count(change.old) == 1, f"{change.file} holds {change.old!r} {text.count(change.old)} times, not once"
    path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    try:
        return run(tree, TESTS[change.file].split())
    finally:
        path.write_text(text, encoding="utf-8")
        trees.put(str(tree))


def copy_of_the_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder
