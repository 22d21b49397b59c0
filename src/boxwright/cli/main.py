"""From argv to a verb: choose the system, read its flags, call it. Nothing heavy is loaded before that."""

import difflib
import logging
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from boxwright import __version__
from boxwright.errors import UserError

if TYPE_CHECKING:
    from boxwright.settings.base import Verb

VERBS = {
    "demo": "make a small data set, train, validate and predict on it",
    "train": "train a detector, or go on with a run that was stopped",
    "val": "measure a detector on labelled images",
    "predict": "find objects in images, videos or a camera",
    "export": "write a checkpoint for ONNX Runtime, TorchScript or OpenVINO",
    "evolve": "search hyper-parameters by many short trainings",
    "check": "list every problem of a data set, with file and line",
    "anchors": "find anchors that fit a data set",
    "info": "show the layers, parameters and strides of a model",
    "convert": "write weights or data sets in another format, or new splits",
    "bench": "measure what a module or a model costs: operations, memory, time",
}
_COMPUTE = ("demo", "train", "val", "predict", "export", "evolve", "bench")  # run a network: memory is kept for it
_OTHER_NAMES = {"detect": "predict", "test": "val", "validate": "val", "fit": "train"}


def help_text() -> str:
    """Return the help page of the whole tool."""
    verbs = "\n".join(f"  {name:<9}{summary}" for name, summary in VERBS.items())
    return (
        "usage: boxwright VERB [flags]\n\n"
        f"Train, evaluate and run object detectors.\n\nverbs:\n{verbs}\n\n"
        "`boxwright VERB --help` lists the flags of a verb. Begin with `boxwright demo`.\n"
    )


def main(argv: Sequence[str]) -> int:
    """Run one verb.

    Returns:
        exit code: 0 success, 1 the verb found something wrong, 2 a user error, 130 interrupted.
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
    """Run the `boxwright` script."""
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
    if name in _COMPUTE and not {"-h", "--help"} & set(argv):
        from boxwright.engine.allocator import keep_large_buffers

        keep_large_buffers()  # before torch allocates
    with _log_to_stderr():
        return run(name, argv[1:])


def run(verb: str, argv: Sequence[str]) -> int:
    """Run a verb with the words behind it.

    Returns:
        exit code.
    """
    from boxwright import systems
    from boxwright.cli.parser import Parser

    whole = systems.subverbs(verb)
    if whole:
        kinds = [name.partition(" ")[2] for name in whole]
        at = _position_of_kind(argv, kinds)
        if at is None:
            _list_kinds(verb, whole, argv)
        verb, argv = f"{verb} {argv[at]}", [*argv[:at], *argv[at + 1 :]]
    first = systems.choose(verb, ())
    system = first
    if len([word for word in argv if word not in ("-h", "--help")]) > 0:
        named = Parser(verb, first.VERBS[verb], first.ANSWERS).named(argv, systems.NAMED_BY)
        system = systems.choose(verb, named)
    hint = ""
    if system is first and {"-h", "--help"} & set(argv):
        others = [other for other in map(systems.load_system, systems.SYSTEMS) if other is not first]
        hint = "\n".join(
            other.HINT.format(call=f"{verb} {systems.choosing_flag(other, verb)}")
            for other in others
            if verb in other.VERBS
        )
    parser = Parser(verb, system.VERBS[verb], system.ANSWERS, hint, lambda flag: systems.owners_of_flag(verb, flag))
    given = parser.read(argv)
    result = systems.run(system, verb, given)
    return result if isinstance(result, int) else 0


def _position_of_kind(argv: Sequence[str], kinds: Sequence[str]) -> int | None:
    """Find the second word of a verb; it need not stand first, but a word behind a flag is the value of that flag."""
    places = [at for at, word in enumerate(argv) if word in kinds and not (at and argv[at - 1].startswith("-"))]
    return places[0] if places else None


def _list_kinds(verb: str, whole: "Mapping[str, Verb]", argv: Sequence[str]) -> NoReturn:
    """Answer a verb of two words that came without its second one."""
    lines = "\n".join(f"  {name.partition(' ')[2]:<11}{entry.about}" for name, entry in whole.items())
    if {"-h", "--help"} & set(argv):
        print(f"usage: boxwright {verb} KIND [flags]\n\nkinds:\n{lines}\n")
        print(f"`boxwright {verb} KIND --help` lists the flags of a kind.")
        sys.exit(0)  # as the other help pages do
    kinds = ", ".join(name.partition(" ")[2] for name in whole)
    word = next((word for word in argv if not word.startswith("-")), "")
    raise UserError(f"{verb} what? {word or 'nothing'} is not one of {kinds} (`boxwright {verb} --help` explains them)")


@contextmanager
def _log_to_stderr() -> Generator[None]:
    """Log while the verb runs, and no longer: who calls `main` from Python keeps an own logging."""
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
