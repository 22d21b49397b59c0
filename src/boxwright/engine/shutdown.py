"""End a process without the interpreter's shutdown. Imports no torch."""

import atexit
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress


@contextmanager
def no_shutdown() -> Generator[None]:
    """Let the process end right after its exit functions, with the code of its SystemExit.

    The shutdown would take each object of torch apart: .5 s of CPU, a quarter of what torch costs in all. In one of
    several ranks it even fails: threads of gloo release the tensors of the last collective in their own time, and ask
    Python for its lock to do so. During the shutdown Python before 3.14 ends a thread that asks, within C++ code that
    does not allow it: the process died of SIGABRT after its work was done. Enter before anything else registers an exit
    function: what is registered first is called last.
    """
    codes: list[int] = []

    def end() -> None:
        if codes:  # none after an exception that nobody caught: its traceback is printed by the shutdown
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError):  # nobody reads it any more
                    stream.flush()
            os._exit(codes[0])

    atexit.register(end)
    try:
        yield
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            codes.append(error.code or 0)
        raise
    codes.append(0)
