"""From argv to a verb: choose the system, read its flags, call it. Nothing heavy is loaded before that."""

import difflib
import errno
import gc
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from boxwright import __version__
from boxwright.errors import MEMORY_ADVICE, UserError, is_out_of_memory, missing_operator, reason
from boxwright.machine import no_shutdown
from boxwright.terminal import CtrlC, SayHandler, say, word_wrap

if TYPE_CHECKING:
    from boxwright.settings.base import Verb

# Here and not with the systems: the help page of the tool imports nothing.
VERBS = {
    "demo": "make a small data set, train, validate and predict on it",
    "train": "train a detector, or go on with a run that was stopped",
    "val": "measure a detector on labelled images",
    "predict": "find objects in images, videos or a camera",
    "export": "write a checkpoint for ONNX Runtime, TorchScript, OpenVINO or NCNN",
    "evolve": "search hyper-parameters by many short trainings",
    "check": "list every problem of a data set, with file and line",
    "anchors": "find anchors that fit a data set",
    "info": "show the layers, parameters and strides of a model",
    "convert": "write weights or data sets in another format, or new splits",
    "bench": "measure what a module costs, or every exported form of a checkpoint",
}
_COMPUTE = ("demo", "train", "val", "predict", "export", "evolve", "bench")  # run a network: memory is kept for it
_HELP = {"-h", "--help"}
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_OTHER_NAMES = {"detect": "predict", "test": "val", "validate": "val", "fit": "train"}


def help_text() -> str:
    """Return the help page of the whole tool."""
    verbs = "\n".join(f"  {name:<9}{summary}" for name, summary in VERBS.items())
    return (
        "usage: boxwright VERB [flags]\n\n"
        f"Train, evaluate and run object detectors.\n\nverbs:\n{verbs}\n\n"
        "`boxwright VERB --help` lists the flags of a verb. Begin with `boxwright demo`.\n"
        'Tab completion of bash and zsh: eval "$(boxwright completion bash)"\n'
    )


def main(argv: Sequence[str]) -> int:
    """Run one verb.

    Returns:
        exit code: 0 success, 1 the verb found something wrong, 2 a user error, 130 interrupted, 141 the reader is gone.
    """
    name, *words = argv or [""]
    try:
        if name in ("-h", "--help", "help"):
            print(help_text(), end="")
        elif name in ("-V", "--version"):
            print(f"boxwright {__version__}")
        elif name == "completion":
            from boxwright.cli.completion import USAGE, completion

            print(USAGE if _HELP & set(words) else completion(" ".join(words), list(VERBS)), end="")
        elif not name:
            print(help_text(), end="", file=sys.stderr)
            return 2
        else:
            return _run_logged(name, words)
    except UserError as error:
        say(f"boxwright: {error}", to_stderr=True)
        return 2
    except KeyboardInterrupt:
        say("boxwright: interrupted", to_stderr=True)
        return 130
    except BrokenPipeError:  # who reads the output has seen enough, as `head` does
        return 141
    except Exception as error:
        if is_out_of_memory(error):
            say(f"boxwright: {MEMORY_ADVICE}", to_stderr=True)
        elif isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            say(f"boxwright: cannot write {error.filename or 'the output'}: {reason(error)}", to_stderr=True)
        elif isinstance(error, OSError) and error.filename is not None:
            say(f"boxwright: {os.fsdecode(error.filename)}: {reason(error)}", to_stderr=True)
        elif lacking := missing_operator(error):
            say(f"boxwright: {lacking}", to_stderr=True)
        else:
            raise
        return 2
    return 0


def entry_point() -> None:
    """Run the `boxwright` script."""
    gc.disable()  # until all is imported: nothing of that is garbage, and looking takes a sixth of what torch costs
    with no_shutdown():
        code = main(sys.argv[1:])
        try:
            sys.stdout.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what could not be written is still in a buffer
            if not code:
                code = 2
                say(f"boxwright: cannot write the output: {reason(error)}", to_stderr=True)
        sys.exit(code)


def _run_logged(name: str, argv: Sequence[str]) -> int:
    """Check the name of a verb, then run it and log to the standard error meanwhile."""
    if name not in VERBS:
        near = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(VERBS)}"
        raise UserError(f"there is no verb '{name}'; {hint}")
    if name in _COMPUTE and not _HELP & set(argv):
        from boxwright.machine import keep_large_buffers, spin_briefly

        keep_large_buffers()  # before torch allocates
        spin_briefly()  # before it is loaded
    from boxwright.data.files import not_drawn

    logger = logging.getLogger("boxwright")
    level, handler = logger.level, SayHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    not_drawn.clear()
    try:
        with word_wrap(), CtrlC():
            code = run(name, argv)
    finally:  # who calls `main` from Python keeps an own logging
        logger.removeHandler(handler)
        logger.setLevel(level)
    sys.stdout.flush()
    if not_drawn:
        more = f", and {len(not_drawn) - 1} more" if len(not_drawn) > 1 else ""
        raise UserError(f"{name} is done, but {not_drawn[0]}{more}")
    return code


def run(verb: str, argv: Sequence[str]) -> int:
    """Run a verb with the words behind it.

    Returns:
        exit code.
    """
    from boxwright import systems
    from boxwright.cli.parser import Parser

    if kinds := {name.partition(" ")[2]: entry for name, entry in systems.subverbs(verb).items()}:
        # The second word of a verb need not stand first, but a word behind a flag is the value of that flag.
        places = (at for at, word in enumerate(argv) if word in kinds and not (at and argv[at - 1].startswith("-")))
        at = next(places, None)
        if at is None:
            _list_kinds(verb, kinds, argv)
        verb, argv = f"{verb} {argv[at]}", [*argv[:at], *argv[at + 1 :]]
    # The system decides which flags there are, and flags say which system it is: those of the default are read first.
    first = systems.choose(verb, ())
    others = systems.NAMED_OTHERWISE.get(verb, {})
    named = Parser(verb, first).named(argv, (*systems.NAMED_BY, *others))
    system = systems.choose(verb, [(others.get(what, what), value) for what, value in named])
    hint = ""
    if system is first and _HELP & set(argv):
        others = [other for other in map(systems.load_system, systems.SYSTEMS) if other is not first]
        calls = {other: f"{verb} {systems.choosing_flag(other, verb)}" for other in others if verb in other.VERBS}
        hint = "\n".join(other.HINT.format(call=call) for other, call in calls.items())
    result = systems.run(system, verb, Parser(verb, system, hint).read(argv), begin=_collect_garbage)
    return result if isinstance(result, int) else 0


def _collect_garbage() -> None:
    """Begin to collect garbage where `entry_point` has put it off, but not among what has been imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _list_kinds(verb: str, kinds: "Mapping[str, Verb]", argv: Sequence[str]) -> NoReturn:
    """List the second words of a verb that came without one: as a help page, or as a user error."""
    if _HELP & set(argv):
        lines = "\n".join(f"  {name:<11}{entry.about}" for name, entry in kinds.items())
        print(f"usage: boxwright {verb} KIND [flags]\n\nkinds:\n{lines}\n")
        print(f"`boxwright {verb} KIND --help` lists the flags of a kind.")
        sys.exit(0)  # as the other help pages do
    word = next((word for word in argv if not word.startswith("-")), "nothing")
    raise UserError(
        f"{verb} what? {word or 'nothing'} is not one of {', '.join(kinds)} (`boxwright {verb} --help` explains them)"
    )
