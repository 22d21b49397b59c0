"""From argv to a verb. Verbs are loaded only when they run, so that `--help` is quick."""

from __future__ import annotations

import difflib
import importlib
import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from boxwright import __version__
from boxwright.errors import UserError


class Verb(NamedTuple):
    module: str  # has `run(argv) -> int`, the exit code
    summary: str
    computes: bool = True  # runs a network, so that memory is kept for it


VERBS: dict[str, Verb] = {
    "demo": Verb("boxwright.cli.demo", "make a small data set, train, validate and predict on it"),
    "train": Verb("boxwright.cli.train", "train a detector, or go on with a run that was stopped"),
    "val": Verb("boxwright.cli.val", "measure a detector on labelled images"),
    "predict": Verb("boxwright.cli.predict", "find objects in images, videos or a camera"),
    "export": Verb("boxwright.cli.export", "write a checkpoint for ONNX Runtime, TorchScript or OpenVINO"),
    "evolve": Verb("boxwright.cli.evolve", "search hyper-parameters by many short trainings"),
    "check": Verb("boxwright.cli.check", "list every problem of a data set, with file and line", computes=False),
    "anchors": Verb("boxwright.cli.anchors", "find anchors that fit a data set", computes=False),
    "info": Verb("boxwright.cli.info", "show the layers, parameters and strides of a model", computes=False),
    "convert": Verb(
        "boxwright.cli.convert",
        "write weights or data sets in another format, or new splits",
        computes=False,
    ),
    "bench": Verb("boxwright.cli.bench", "measure what a module or a model costs: operations, memory, time"),
}
_OTHER_NAMES = {"detect": "predict", "test": "val", "validate": "val", "fit": "train"}


def help_text() -> str:
    verbs = "\n".join(f"  {name:<9}{verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: boxwright VERB [flags]\n\n"
        f"Train, evaluate and run object detectors.\n\nverbs:\n{verbs}\n\n"
        "`boxwright VERB --help` lists the flags of a verb. Begin with `boxwright demo`.\n"
    )


def main(argv: Sequence[str]) -> int:
    """Run one verb.

    Returns:
        exit code: 0 success, 1 the verb found something wrong, 2 a mistake of the user, 130 interrupted.
    """
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"boxwright: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("boxwright: interrupted", file=sys.stderr)
        return 130


def entry_point() -> None:
    """What the `boxwright` script calls."""
    sys.exit(main(sys.argv[1:]))


def _dispatch(argv: Sequence[str]) -> int:
    name = argv[0] if argv else ""
    if name in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if name in ("-V", "--version"):
        print(f"boxwright {__version__}")
        return 0
    if not name:
        print(help_text(), end="", file=sys.stderr)
        return 2
    if name not in VERBS:
        near = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        raise UserError(f"there is no verb '{name}'; {hint}")
    verb = VERBS[name]
    if verb.computes and not {"-h", "--help"} & set(argv):
        from boxwright.engine.allocator import keep_large_buffers

        keep_large_buffers()  # before torch allocates
    with _log_to_stderr():
        return importlib.import_module(verb.module).run(argv[1:])


@contextmanager
def _log_to_stderr() -> Generator[None]:
    """Only while the verb runs: who calls `main` from Python keeps his own logging."""
    logger = logging.getLogger("boxwright")
    level, handler = logger.level, logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
