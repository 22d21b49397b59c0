"""Six faults at every file operation of a save: a readable checkpoint is there at each moment, and nothing piles up."""

from __future__ import annotations

import errno
import io
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from boxwright.checkpoints.native import previous, save_checkpoint
from boxwright.engine.run import readable_run
from boxwright.errors import UserError

KILL, KILL_IN_WRITE = -9, -2
FAULTS = {"full": errno.ENOSPC, "quota": errno.EDQUOT, "io": errno.EIO, "denied": errno.EACCES} | {
    "kill": KILL,
    "kill in a write": KILL_IN_WRITE,
}
_CALLS = ("open", "fsync", "replace", "link", "unlink")


class Boundaries:
    """Counts the file operations of this process, and lets one of them fail, or kills the process there."""

    def __init__(self, at: int, fault: int) -> None:
        self.count = 0
        self.at, self.fault = at, fault

    def reach(self, write: Callable[[], object] | None = None) -> None:
        """Come to an operation; `write`: do half of it."""
        self.count += 1
        if self.count != self.at:
            return
        if self.fault == KILL_IN_WRITE and write is not None:
            write()
        if self.fault < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(self.fault, os.strerror(self.fault))

    def watch(self) -> None:
        """Watch what Python code asks of the system from now on; for a process that ends soon."""
        for name in _CALLS:
            setattr(os, name, self._counted(getattr(os, name)))
        real = io.open

        class Watched(io.FileIO):
            def write(file, data: Any, /) -> int:  # noqa: N805
                self.reach(lambda: io.FileIO.write(file, bytes(data)[: len(bytes(data)) // 2]))
                return super().write(data)

        def open_watched(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode != "wb":
                return real(path, mode, *args, **kwargs)
            self.reach()
            return Watched(path, "wb")

        pathlib.io.open = open_watched  # type: ignore[attr-defined]

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.reach()
            return call(*args, **kwargs)

        return counted


def _content(epoch: int) -> dict[str, Any]:
    state = {"w": torch.full((50,), float(epoch))}
    engine = {"run": {"epoch": epoch}}
    return {"epoch": epoch, "config": {}, "model": {}, "engine": engine, "state_dict": state, "ema": {}}


def _save_in_a_child(path: Path, at: int, fault: int) -> tuple[int, int]:
    """Save epoch 3 in a forked process; return its exit status and the operations that it has counted."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        boundaries, code = Boundaries(at, fault), 0
        boundaries.watch()
        try:
            save_checkpoint(path, _content(3), keep_before=True)
        except UserError:
            code = 2
        except BaseException as error:  # what must not come
            print(repr(error), file=sys.stderr)
            code = 1
        os.write(writes, str(boundaries.count).encode())
        os._exit(code)
    os.close(writes)
    with os.fdopen(reads, "rb") as pipe:
        count = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(count or 0)


def audit_faults(root: Path, faults: dict[str, int] = FAULTS) -> tuple[int, list[str]]:
    """Try each fault at each operation of a save over two checkpoints.

    Returns:
        the number of trials, and what was wrong.
    """
    path = root / "weights" / "last.pt"
    path.parent.mkdir(parents=True)
    trials, wrong = 0, list[str]()
    for epoch in (1, 2):
        save_checkpoint(path, _content(epoch), keep_before=True)
    start = {file: file.read_bytes() for file in path.parent.iterdir()}

    def begin() -> None:
        for file in path.parent.iterdir():
            file.unlink()
        for file, content in start.items():
            file.write_bytes(content)

    begin()
    code, total = _save_in_a_child(path, 0, 0)
    if code or total < 10:
        return 0, [f"an undisturbed save ends with {code} after {total} operations"]
    for name, fault in faults.items():
        for at in range(1, total + 1):
            begin()
            code, _ = _save_in_a_child(path, at, fault)
            trials += 1
            killed = fault < 0
            try:
                epoch = readable_run(path)["epoch"]
            except UserError as error:
                epoch = str(error)
            left = [file.name for file in path.parent.iterdir() if file.name.startswith(".")]
            # What is tidied up at the end may fail without a word: then the save is done.
            fine = epoch in (2, 3) and (code == -9 if killed else code in (0, 2) and not (code == 0 and epoch != 3))
            save_checkpoint(path, _content(4), keep_before=True)
            after = {file.name for file in path.parent.iterdir()}
            if not fine or after != {path.name, previous(path).name}:
                wrong.append(f"{name} at {at} of {total}: code {code}, epoch {epoch}, left {left}, then {after}")
    return trials, wrong


def main(root: Path) -> bool:
    """Print the figures; return whether all was well."""
    trials, wrong = audit_faults(root)
    print(f"{trials} faults in a save, {len(wrong)} wrong", *wrong, sep="\n")
    return not wrong
