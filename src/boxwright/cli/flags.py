"""Flags from plain tables: how a row becomes an argparse option, and what an unknown flag is answered.

A row repeats the default of its setting as text, so that `--help` answers without loading the schema; a contract test
holds both together.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from boxwright.errors import UserError

if TYPE_CHECKING:
    from boxwright.settings.yaml_file import Setting

# Flags of published YOLOv5 releases that are spelled differently here, or are not here: what to do instead.
YOLOV5_FLAGS: dict[str, str] = {
    "--adam": "write --optimizer Adam",
    "--cache-images": "write --cache ram",
    "--linear-lr": "linear is the default, --cos-lr chooses the other",
    "--notest": "write --noval",
    "--evolve": "write boxwright evolve --generations N",
    "--local_rank": "leave it out",
    "--bucket": "runs are written to --project only",
    "--entity": "runs are logged to files, to TensorBoard and, with --callbacks mlflow, to MLflow",
    "--upload_dataset": "runs are logged to files, to TensorBoard and, with --callbacks mlflow, to MLflow",
    "--bbox_interval": "runs are logged to files, to TensorBoard and, with --callbacks mlflow, to MLflow",
    "--artifact_alias": "runs are logged to files, to TensorBoard and, with --callbacks mlflow, to MLflow",
    "--view-img": "results are written to --project",
    "--visualize": "this version does not have it",
    "--update": "nothing is downloaded here",
    "--dnn": "this version does not have it",
}


@dataclass(frozen=True, slots=True)
class Flag:
    """One row of a flag table.

    Args:
        setting: dotted path in the configuration that it sets.
        names: what may be typed, separated by blanks; the first is the one shown in messages.
        default: the setting's default, as text.
        help: what it does, starting small, without a full stop.
        metavar: what stands for the value in the help.
        kind: one value, a switch (also `--rect=false`), or several values.
        bare: the value if the flag stands alone; empty: it needs one.
    """

    setting: str
    names: str
    default: str
    help: str
    metavar: str = "N"
    kind: Literal["value", "switch", "list"] = "value"
    bare: str = ""


def switch(setting: str, names: str, help: str, default: str = "false") -> Flag:
    return Flag(setting, names, default, help, "", "switch", "true")


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UserErrors in one sentence."""

    def __init__(self, verb: str, description: str, **options: Any) -> None:
        super().__init__(
            prog=f"boxwright {verb}",
            description=description,
            usage=options.pop("usage", "%(prog)s [flags]"),
            formatter_class=_Help,
            allow_abbrev=False,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].lower()}{message[1:]} (`{self.prog} --help` lists all flags)")

    def add_flags(self, title: str, flags: Sequence[Flag]) -> None:
        """Add a group of flags. One that was not given leaves no trace in the parsed result."""
        group = self.add_argument_group(title)
        for flag in flags:
            options: dict[str, Any] = {"metavar": flag.metavar}
            if flag.kind == "list":
                options["nargs"] = "+"
            elif flag.bare:
                options |= {"nargs": "?", "const": flag.bare}
            shown = flag.help if flag.kind == "switch" or not flag.default else f"{flag.help} (default {flag.default})"
            group.add_argument(
                *flag.names.split(),
                dest=flag.setting,
                default=argparse.SUPPRESS,
                help=shown.replace("%", "%%"),
                **options,
            )

    def parse_strictly(self, argv: Sequence[str]) -> dict[str, Any]:
        """What the user gave, by destination. Raises a UserError for anything unknown."""
        given, unknown = self.parse_known_args(argv)
        if unknown:
            self.error(self._explain(unknown[0].partition("=")[0]))
        return vars(given)

    def _explain(self, word: str) -> str:
        if not word.startswith("-"):
            return f"'{word}' stands alone: no flag before it takes it"
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        tails = {name.rpartition(".")[2].lstrip("-").replace("_", "-"): name for name in reversed(known)}
        tail = word.rpartition(".")[2].lstrip("-").replace("_", "-")
        if word in YOLOV5_FLAGS:
            return f"there is no flag {word}: {YOLOV5_FLAGS[word]}"
        near = difflib.get_close_matches(tail, tails, n=1) or [""]
        hint = f"; did you mean {tails[near[0]]}?" if near[0] else ""
        return f"there is no flag {word}{hint}"


def origins(given: Mapping[str, Any], *tables: Sequence[Flag]) -> dict[str, Setting]:
    """The given settings of these tables, each marked with the flag that set it."""
    from boxwright.settings.yaml_file import Setting

    flags = {flag.setting: flag.names.split()[0] for table in tables for flag in table}
    return {name: Setting(value, flags[name]) for name, value in given.items() if name in flags}


class _Help(argparse.HelpFormatter):
    """All names of a flag on one line, its value named once, switches without one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=36, width=120)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        value = self._format_args(action, str(action.metavar)) if action.nargs != 0 and action.metavar else ""
        return f"{', '.join(action.option_strings)} {value}".rstrip()

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "+":
            return f"{default_metavar} ..."
        return super()._format_args(action, default_metavar)
