"""Try each change of `changes.py` in a copy of the project, and print which test saw it.

    python -m tests.mutants [WORKERS] [WORD]     those whose file or text holds WORD

The tests of the changed file run without any BOXWRIGHT variable, so without ../shared. The exit code is 1 if more than
`MAY_LIVE` changes were seen by none of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.changes import CHANGES, TESTS, Change

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("src", "tests", "docs", "examples", "pyproject.toml", "README.md")
MAY_LIVE = 3


def run(tree: Path, tests: str) -> tuple[int, str]:
    """Run tests in a tree until one fails: exit code and output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BOXWRIGHT")}
    environment |= {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    files = [f"tests/{name}" for name in tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def try_change(change: Change, tree: Path) -> str:
    """Name the test that fails for a change; empty: none does."""
    path = tree / "src" / "boxwright" / change.file
    text = path.read_text(encoding="utf-8")
    if text.count(change.old) != 1:
        raise SystemExit(f"{change.file} holds {change.old!r} {text.count(change.old)} times, not once")
    path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    try:
        code, output = run(tree, TESTS[change.file])
    finally:
        path.write_text(text, encoding="utf-8")
    if code == 0:
        return ""
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", output, re.MULTILINE)
    if code != 1 or failed is None:
        raise SystemExit(f"the tests of {change.file} did not run:\n{output[-3000:]}")
    return failed[1]


def copy_of_the_project(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def main(workers: int, word: str) -> int:
    changes = [change for change in CHANGES if word in change.file + change.old]
    trees: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="boxwright-mutants-") as folder:
        for number in range(workers):
            trees.put(copy_of_the_project(Path(folder) / str(number) / "project"))

        def attempt(change: Change) -> str:
            tree = trees.get()
            try:
                return try_change(change, tree)
            finally:
                trees.put(tree)

        alive = 0
        with ThreadPoolExecutor(workers) as pool:
            for number, (change, seen_by) in enumerate(zip(changes, pool.map(attempt, changes), strict=True), 1):
                alive += not seen_by
                print(f"{number:2} {change.file}: {change.old} -> {change.new}\n   {seen_by or 'LIVES'}", flush=True)
    print(f"{len(changes) - alive} of {len(changes)} changes were seen by a test")
    return int(alive > MAY_LIVE)


if __name__ == "__main__":
    sys.exit(main(int((sys.argv[1:2] or ["2"])[0]), (sys.argv[2:3] or [""])[0]))
