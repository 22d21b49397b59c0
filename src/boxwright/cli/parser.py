"""Flags from settings classes: how a setting becomes an argparse option, and what a wrong flag is answered."""

import argparse
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

from boxwright import systems
from boxwright.errors import UserError
from boxwright.settings.base import Verb
from boxwright.settings.flags import Flag, flags_of, nearest
from boxwright.settings.load import Setting
from boxwright.terminal import wrapped

_MOST_NAMED = 8  # flags that an ambiguous beginning is answered with
_SLIP, _LEAST_LETTERS = 0.8, 4  # how similar a misspelt flag must be, and how long: shorter ones resemble too many
_NARROWEST, _WIDEST = 60, 120  # columns of a help page
_YES_OR_NO = frozenset("true false yes no on off t f y n 1 0".split())  # that may follow a switch
_POSITION = "@"  # begins the destination of a setting that is given without a flag


def verb_flags(verb: Verb) -> tuple[Flag, ...]:
    """List the flags of a verb: settings files first."""
    return (*(flags_of(verb.files) if verb.files else ()), *flags_of(verb.settings))


class Parser(argparse.ArgumentParser):
    """An argument parser of one verb whose complaints are UserErrors in one sentence."""

    def __init__(self, name: str, system: systems.System, epilog: str = "") -> None:
        """Make the options of a verb of a system; the epilog is the last lines of the help page."""
        verb = system.VERBS[name]
        self.name, self.flags, self._help = name, verb_flags(verb), systems.help_command(system, name)
        # Those of this verb alone stand behind its name.
        self.answers = {key.removeprefix(f"{name} "): answer for key, answer in system.ANSWERS.items()}
        self.spellings = {spelling: flag for flag in self.flags for spelling in flag.names}
        places = [flag for flag in self.flags if flag.position]
        super().__init__(
            prog=f"boxwright {name}",
            description=verb.about,
            usage=f"%(prog)s{''.join(f' {flag.metavar}' for flag in places)} [flags]",
            formatter_class=_Help,
            allow_abbrev=False,  # `full_name` completes beginnings, and says which there are
            epilog=epilog,
        )
        for flag in places:
            self.add_argument(_POSITION + flag.setting, metavar=flag.metavar, nargs="?", help=_escaped(flag.meaning))
        # What is not given leaves no value: a default would beat the settings files.
        groups = {title: self.add_argument_group(title) for title in dict.fromkeys(flag.group for flag in self.flags)}
        for flag in self.flags:
            options: dict[str, Any] = {"metavar": "" if flag.kind == "switch" else flag.metavar}
            if flag.kind == "list":
                adds = "append" if flag.of_lists else "extend"
                options |= {"nargs": "+", "action": adds if flag.repeats else "store"}
            elif flag.bare is not None:
                options |= {"nargs": "?", "const": flag.bare}
            text = _escaped(f"the same as {flag.metavar}" if flag.position else flag.help)
            group = groups[flag.group]
            group.add_argument(*flag.names, dest=flag.setting, default=argparse.SUPPRESS, help=text, **options)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse complains of."""
        raise UserError(f"{message[0].lower()}{message[1:]} (`{self._help}` lists all flags)")

    def read(self, argv: Sequence[str]) -> dict[str, Setting]:
        """Read what the user gave, by dotted path, each value with the flag that set it.

        Raises:
            UserError: a flag is unknown or ambiguous, a value is missing, or a word stands alone.
        """
        words = [self.full_name(word) for word in argv]
        for i, after in enumerate(words[1:]):  # a switch takes no file name behind it
            flag = self.spellings.get(words[i])
            if flag and flag.kind == "switch" and not after.startswith("-") and after.lower() not in _YES_OR_NO:
                words[i] += "=true"
        given, unknown = self.parse_known_intermixed_args(words)
        if unknown:
            word = unknown[0].partition("=")[0]
            if not word.startswith("-"):
                out = "; write --out for the folder to write" if "--out" in self.spellings else ""
                self.error(f"'{word}' stands alone: no flag before it takes it{self._one_value(word, argv) or out}")
            typed = word.replace("_", "-")
            begun = {flag.replace("_", "-"): flag for flag in self.answers if flag.replace("_", "-").startswith(typed)}
            first = min(begun, key=len, default="")
            if first == typed or (first and len(word) > 3 and all(flag.startswith(first) for flag in begun)):
                self.error(f"there is no flag {begun[first]}: {self.answers[begun[first]]}")
            # Dots and underscores are what people forget: --momentum is --optim.momentum. A wrong guess is worse than
            # none, so all else must be a slip of the finger.
            tails = {_tail(name): name for name in reversed(self.spellings)}
            cutoff = _SLIP if len(_tail(word)) >= _LEAST_LETTERS else 1
            near = tails.get(nearest(_tail(word), tails, cutoff))
            is_opposite = near and near.startswith("--no") != word.startswith("--no")  # --plots is not --noplots
            hint = f"; did you mean {near}?" if near and not is_opposite else ""
            self.error(systems.owners_of_flag(self.name, word) or f"there is no flag {word}{hint}")
        values = vars(given)
        found: dict[str, Setting] = {}
        for flag in self.flags:
            alone, spelling = values.get(_POSITION + flag.setting), flag.names[0]
            if alone is None and flag.setting in values:
                found[flag.setting] = Setting(values[flag.setting], spelling)
            elif alone is not None and flag.setting in values:
                self.error(f"two values are named for {flag.metavar}: {alone} and {spelling} {values[flag.setting]}")
            elif alone is not None:
                found[flag.setting] = Setting(alone, flag.metavar)
        return found

    def _one_value(self, word: str, argv: Sequence[str]) -> str:
        """Say that a flag takes one value, if the word is a second value of one."""
        for typed, value, second in zip(argv, argv[1:], argv[2:], strict=False):
            flag = self.spellings.get(self.full_name(typed)) if typed.startswith("--") else None
            if flag and flag.kind == "value" and second == word and not value.startswith("--"):
                return f" ({typed} takes one value)"
        return ""

    def named(self, argv: Sequence[str], whats: Sequence[str]) -> list[tuple[str, str]]:
        """Look for values that may say which system is meant, before it is known which flags there are.

        Args:
            argv: words behind the verb.
            whats: names of settings to look for, whether this verb has them or not.

        Returns:
            pairs of such a name and a value.
        """
        for what in set(whats) - {flag.setting for flag in self.flags}:
            spellings = {"model": ("--model", "--cfg")}.get(what, (f"--{what}",))
            free = [spelling for spelling in spellings if spelling not in self.spellings]
            if free:  # `anchors --weights` is a spelling of its model
                self.add_argument(*free, dest=what, default=argparse.SUPPRESS, nargs="?")
        try:
            words = [self.full_name(word) for word in argv if word not in ("-h", "--help")]
            given, unknown = self.parse_known_args(words)
        except UserError:  # told when the flags are read
            return []
        values = vars(given)
        found = {what: values.get(what, values.get(_POSITION + what)) for what in whats}
        pairs = [(what, value[0] if isinstance(value, list) else value) for what, value in found.items() if value]
        # A word behind a flag that only another system has may have been taken for the data.
        if f"{_POSITION}data" in values:
            pairs += [("data", word) for word in unknown if not word.startswith("-")]
        return pairs

    def full_name(self, word: str) -> str:
        """Complete the unambiguous beginning of a flag, as published parsers do; exact spellings win.

        Raises:
            UserError: several flags begin so.
        """
        typed, sign, value = word.partition("=")
        if not typed.startswith("--") or len(typed) < 3 or typed in self.spellings or typed in self.answers:
            return word
        begun = {flag.setting: flag for spelling, flag in self.spellings.items() if spelling.startswith(typed)}
        spelled = [flag.names[0] for flag in begun.values()]
        if len(spelled) > 1:
            more = f" and {len(spelled) - _MOST_NAMED} more" if len(spelled) > _MOST_NAMED else ""
            self.error(f"{typed} is ambiguous: it could be {', '.join(spelled[:_MOST_NAMED])}{more}")
        return spelled[0] + sign + value if spelled else word


def _tail(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-").replace("_", "-")


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


class _Help(argparse.HelpFormatter):
    """All names of a flag on one line, its value named once, switches without one."""

    def __init__(self, prog: str) -> None:
        width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)
        super().__init__(prog, max_help_position=min(36, width // 3), width=width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width, "").splitlines()  # argparse breaks words at their hyphens, also names of flags

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return wrapped(text, width, "")

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        value = self._format_args(action, str(action.metavar)) if action.nargs != 0 and action.metavar else ""
        return f"{', '.join(action.option_strings)} {value}".rstrip()

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return f"{default_metavar} ..." if action.nargs == "+" else super()._format_args(action, default_metavar)
