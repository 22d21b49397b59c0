"""Try each change of `changes.py` in a copy of the project, and print which test saw it.

    python -m tests.mutants [WORKERS] [WORD]     those whose file or text holds WORD

The tests of the changed file run without any BOXWRIGHT variable, so without ../shared. The exit code is 1 if more than
`MAY_LIVE` changes were seen by none of them.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.mutants.changes import CHANGES, TESTS
from tests.mutants.trial import copy_of_the_project, try_change, try_tests

LIBRARIES = [
    "torch",
    "torchvision",
    "numpy",
    "cv2",
    "scipy.optimize",
    "pydantic",
    "pytest",
    "hypothesis",
    "pycocotools",
]
MAY_LIVE = 3


def main(workers: int, word: str) -> int:
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    changes = [change for change in CHANGES if word in change.file + change.old]
    # Each change gets a process that has the libraries already, but nothing of the project.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    alive = 0
    everything = sorted({name for change in changes for name in TESTS[change.file].split()})
    with (
        tempfile.TemporaryDirectory(prefix="boxwright-mutants-") as folder,
        context.Manager() as manager,
        ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool,
    ):
        trees = manager.Queue()
        for number in range(workers):
            trees.put(str(copy_of_the_project(Path(folder) / str(number) / "project")))
        unchanged = pool.submit(try_tests, trees, everything)
        for number, (change, seen_by) in enumerate(
            zip(changes, pool.map(try_change, [trees] * len(changes), changes), strict=True), 1
        ):
            alive += not seen_by
            print(f"{number:2} {change.file}: {change.old} -> {change.new}\n   {seen_by or 'LIVES'}", flush=True)
        if broken := unchanged.result():
            raise SystemExit(f"without any change, {broken} fails")
    print(f"{len(changes) - alive} of {len(changes)} changes were seen by a test; without a change none fails")
    return int(alive > MAY_LIVE)


if __name__ == "__main__":
    sys.exit(main(int((sys.argv[1:2] or ["2"])[0]), (sys.argv[2:3] or [""])[0]))
