"""The systems: what `--model`, a settings file, a checkpoint or a data root names, and one call per verb.

This is the only list of systems and the only place that chooses one. A system is a module (`boxwright.yolo.system`)
that has what `System` says; the core knows nothing else of it. A further system is a folder and a line in `SYSTEMS`.
"""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from boxwright.checkpoints.names import missing_weights
from boxwright.errors import UserError
from boxwright.settings.base import Files, Frozen, TrainingConfig, TrainingFiles, Verb, set_limits
from boxwright.settings.flags import flags_of
from boxwright.settings.load import Setting, flatten, load
from boxwright.terminal import said, say

SYSTEMS = {  # name -> module, imported when it is asked for; the first one is the default
    "yolo": "boxwright.yolo.system",
    "centerfusion": "boxwright.centerfusion.system",
}
NAMED_BY = ("model", "config", "weights", "data", "task")  # what a user names that may say which system is meant
NAMED_OTHERWISE = {"convert weights": {"source": "weights"}}  # settings of a verb that name the same


_FILES_OF_WEIGHTS = {"weights", "classifier_weights"}  # settings


class System(Protocol):
    """What the verbs know of a system. A module can be one."""

    VERBS: Mapping[str, Verb]  # by name; "convert data" is a verb of two words
    ANSWERS: Mapping[str, str]  # flags of other tools for these models, or verb and flag -> what to do here
    HINT: str  # for help pages of other systems; {call} is the verb with the flag that chooses this system
    CHOSEN_BY: Mapping[str, str]  # settings that choose it -> a value that does
    RUN: str  # "module:class" of its training runs, an `engine.run.PreparedRun`
    LOAD: str  # "module:function" that opens weights for use from Python

    @staticmethod
    def claims(what: str, value: str) -> bool:
        """Return whether a value of `NAMED_BY` is surely of this system. Imports no torch, reads little of a file."""
        ...

    @staticmethod
    def find_config(name: str) -> str:
        """Find the file of a preset by its name; a path as it is."""
        ...


def load_system(name: str) -> System:
    """Import a system."""
    return cast(System, importlib.import_module(SYSTEMS[name]))


def find_object(name: str) -> Any:
    """Import a function or class that a system names: "module:name"."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def choose(verb: str, named: Iterable[tuple[str, str]]) -> System:
    """Choose the system of a call.

    Args:
        verb: what it is to do.
        named: pairs of a name of `NAMED_BY` and a value. A model decides alone.

    Raises:
        UserError: the system does not have this verb.
    """
    pairs = [(what, value) for what, value in named if value]
    if verb == "demo":
        tasks = [system.CHOSEN_BY["task"] for system in map(load_system, SYSTEMS) if verb in system.VERBS]
        for task in [value for what, value in pairs if what == "task" and value not in tasks]:
            raise UserError(f"demo has no task {task}: --task is {' or '.join(tasks)}")
    pairs = [pair for pair in pairs if pair[0] == "model"] or pairs
    default = next(iter(SYSTEMS))
    # In the order of SYSTEMS, so that a system that is not meant is not imported where an earlier one says yes.
    found = next((name for pair in pairs for name in SYSTEMS if load_system(name).claims(*pair)), default)
    able = [found] if verb in load_system(found).VERBS else [n for n in SYSTEMS if verb in load_system(n).VERBS]
    if found not in (default, *able) or not able:
        raise UserError(f"{found} has no verb {verb}; it has {', '.join(load_system(found).VERBS)}")
    return load_system(able[0])


def choosing_flag(system: System, verb: str) -> str:
    """Return the flag and value that choose a system for a verb; empty where nothing has to be chosen."""
    settings = system.VERBS[verb].settings.model_fields
    return next((f"--{name} {value}" for name, value in system.CHOSEN_BY.items() if name in settings), "")


def help_command(system: System, verb: str) -> str:
    """Return the command that shows the help page of a verb of a system."""
    is_default = system is load_system(next(iter(SYSTEMS)))
    return " ".join(filter(None, ("boxwright", verb, "" if is_default else choosing_flag(system, verb), "--help")))


def subverbs(verb: str) -> dict[str, Verb]:
    """List the verbs of two words that begin with this one, of all systems; none if it is a verb by itself."""
    if verb in load_system(next(iter(SYSTEMS))).VERBS:
        return {}
    every = [entry for name in SYSTEMS for entry in load_system(name).VERBS.items()]
    return {whole: entry for whole, entry in every if whole.startswith(f"{verb} ")}


def owners_of_flag(verb: str, flag: str) -> str:
    """Name the other systems, or the verbs of the same first word, that have or answer a flag; empty: none."""
    found: list[str] = []
    answers: list[str] = []
    for name in SYSTEMS:
        system = load_system(name)
        for other, entry in system.VERBS.items():
            same_word = other.partition(" ")[0] == verb.partition(" ")[0]
            if same_word and any(flag in known.names for known in flags_of(entry.settings)):
                chosen = choosing_flag(system, verb) if other == verb else ""
                found.append((f"{verb} of {name}" if other == verb else other) + (f" ({chosen})" if chosen else ""))
        if verb in system.VERBS and (chosen := choosing_flag(system, verb)):
            spelled = {key.replace("_", "-"): answer for key, answer in system.ANSWERS.items()}
            typed = flag.replace("_", "-")
            if answer := spelled.get(f"{verb} {typed}", spelled.get(typed)):
                answers.append(f"there is no flag {flag}; if {name} is meant ({chosen}), {answer}")
    return f"{flag} belongs to {' and '.join(found)}, not to this {verb}" if found else "; ".join(answers)


def call(verb: str, given: Mapping[str, Any], **objects: Any) -> Any:
    """Run a verb of the system that the settings name.

    Args:
        verb: its name.
        given: settings by dotted path or nested, settings files among them (`config`, `hyp`, `resume`).
        objects: what is no setting, such as callbacks.

    Raises:
        UserError: lists every setting that is unknown or wrong, or says what else the user can mend.
    """
    settings = flatten(given)
    named: list[tuple[str, str]] = []
    others = NAMED_OTHERWISE.get(verb, {})
    for setting in filter(settings.__contains__, (*NAMED_BY, *others)):
        value, what = settings[setting].value, others.get(setting, setting)
        several = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else (value,)
        named += [(what, str(first)) for first in several[:1] if first is not None]  # several run as one network
    return run(choose(verb, named), verb, settings, **objects)


def load_detector(weights: str | Path | Sequence[str | Path], settings: Mapping[str, Any]) -> Any:
    """Open weights for use from Python, with the system that the settings or the first file name.

    Raises:
        UserError: no readable file of that system, or settings that it does not have.
    """
    first = str(weights if isinstance(weights, str | os.PathLike) else next(iter(weights), ""))
    function = find_object(choose("predict", [("model", settings.get("model", "")), ("weights", first)]).LOAD)
    known = list(inspect.signature(function).parameters)[1:]
    if unknown := [name for name in settings if name not in known]:
        raise UserError(f"load of {first} has no {', '.join(unknown)}; it has {', '.join(known)}")
    return function(weights, **settings)


def run(
    system: System, verb: str, settings: Mapping[str, Setting], begin: Callable[[], None] = lambda: None, **objects: Any
) -> Any:
    """Run a verb of a system, see `call`; `begin` is called when all is checked and imported."""
    said.clear()
    entry = system.VERBS[verb]
    of_files = entry.files.model_fields if entry.files else ()
    others = {name: setting for name, setting in settings.items() if name not in of_files}
    files = load(entry.files or Files, {name: settings[name] for name in settings if name not in others})
    if isinstance(files, TrainingFiles) and files.resume is not None:
        adopted = find_object(entry.adopt)(files.resume, others) if entry.adopt else {}
        if not adopted:
            return _resume(files.resume, settings, begin, **objects)
        others = adopted
    if files.config:
        files = files.model_copy(update={"config": system.find_config(files.config)})
    if entry.load:
        config = find_object(entry.load)(entry.settings, others, files)
    else:
        config = load(entry.settings, others, config=files.config)
    set_limits(config)
    if problems := find_problems(system, verb, config):
        raise UserError("; ".join(problems))
    if not getattr(config, "json_file", ""):  # it is measured without a network
        _say_environment(config)
    function = find_object(entry.function)
    begin()
    return function(config, **objects)


def _say_environment(config: Frozen) -> None:
    """Print what a run computes with, if its settings name a device; once, of several processes."""
    device = getattr(config, "device", None)
    if device is not None and os.environ.get("RANK", "0") == "0":
        from boxwright.engine.environment import environment_line  # imports torch, so only after the checks

        processes = max(getattr(config, "nproc", 1), int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
        say(environment_line(device, processes))


def find_problems(system: System, verb: str, config: Frozen) -> list[str]:
    """List what is missing or not there, all of it and before torch is loaded."""
    entry = system.VERBS[verb]
    flags = {flag.setting: flag for flag in flags_of(entry.settings)}

    def spelled(need: str) -> str:
        choices = [flags[name] for name in need.split(" or ")]
        return " or ".join(flag.metavar if flag.position else f"{flag.names[0]} {flag.metavar}" for flag in choices)

    lacking = [need for need in config.needs() if not any(getattr(config, name) for name in need.split(" or "))]
    names = [spelled(need) for need in lacking]
    listed = (", and " if any(" or " in name for name in names) else " and ").join(names)
    problems = [f"{verb} needs {listed} (`{help_command(system, verb)}` lists all flags)"] if lacking else []
    if os.environ.get("RANK", "0") == "0":  # other processes of a run get the weights from the first one
        for name in _FILES_OF_WEIGHTS & flags.keys():
            value = getattr(config, name)
            several = cast("Sequence[str]", value) if isinstance(value, tuple) else (value,)
            problems += [missing_weights(path) for path in several if path and not Path(path).expanduser().exists()]
        if entry.check:
            problems += find_object(entry.check)(config)
    return problems


def _resume(checkpoint: str, settings: Mapping[str, Setting], begin: Callable[[], None], **objects: Any) -> Path:
    """Resume a stopped run, which keeps its settings."""
    changeable = {flag.setting: flag.names[0] for flag in flags_of(TrainingConfig) if flag.on_resume}
    refused = [s.origin or name for name, s in settings.items() if name not in (*changeable, "resume")]
    if refused:
        raise UserError(
            f"{settings['resume'].origin or 'resume'} goes on with the run's own settings: leave out "
            f"{', '.join(refused)} (only {', '.join(changeable.values())} can be changed)"
        )
    given = {name: settings[name] for name in settings if name in changeable}
    checked = load(TrainingConfig, given)
    _say_environment(checked)
    from boxwright.engine.run import resume  # imports torch, so only after the checks

    begin()
    path = Path(checkpoint) if checkpoint else None
    return resume(path, {name: getattr(checked, name) for name in given}, training_of, **objects)


def training_of(settings: Mapping[str, Any]) -> Any:
    """Return the class of training runs that the saved settings of a run belong to."""
    return find_object(choose("train", [("model", str(settings.get("model", "")))]).RUN)
