"""Every setting of a class as one flat list: dotted path, spellings, kind of value, default, limits, meaning."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from boxwright.settings.base import Frozen, Shown

DEFAULT_GROUP = "the run"
# Spellings and placeholders that a setting has in every verb, unless its class says otherwise.
_SPELLINGS = {
    "imgsz": "--imgsz --img --img-size",
    "batch_size": "--batch-size --batch",
    "conf_thres": "--conf-thres --conf",
    "iou_thres": "--iou-thres --iou",
    "model": "--model --cfg",
}
_NAMES_OF_METAVAR = {  # of texts; that of any other text is its own name
    "YAML": "config run space",
    "JSON": "json_file annotations",
    "PT": "weights resume",
    "NAME": "study callbacks classifier version scene split train_split val_split",
    "DIR": "project",
    "OUT": "target",
    "FILE": "classifier_weights",
}
_METAVARS = {name: metavar for metavar, names in _NAMES_OF_METAVAR.items() for name in names.split()}
OLD_NAMES = {"giou": "box"}  # in hyper-parameter files up to v3.0
_MOST_CHOICES = 24  # characters of a metavar that lists the choices
_SAYS_LITTLE = re.compile(r"from -?\d$")  # limits that nobody meets by accident
_LIMITS = (("ge", "from {:g}"), ("gt", "above {:g}"), ("le", "to {:g}"), ("lt", "below {:g}"))


@dataclass(frozen=True, slots=True)
class Flag:
    """One setting as the command line and the reference show it."""

    setting: str  # dotted path: optim.lr0
    names: tuple[str, ...]  # spellings; the first one stands in messages
    kind: Literal["value", "switch", "list"]
    default: Any
    meaning: str
    limits: str  # "from 0 to 1", or choices; empty: any value of the type
    metavar: str
    group: str
    bare: str | None  # value of a flag that stands alone
    position: bool
    repeats: bool  # given again, it adds to the list
    of_lists: bool  # each time it is given is a list of its own
    required: bool
    on_resume: bool

    @property
    def shown_default(self) -> str:
        """Return the default as it would be typed; empty where there is none."""
        if isinstance(self.default, tuple):
            items = cast("tuple[Any, ...]", self.default)
            return " ".join(" ".join(map(str, item)) if self.of_lists else str(item) for item in items)
        return "" if self.default is None else str(self.default).lower() if self.kind == "switch" else str(self.default)

    @property
    def help(self) -> str:
        """Return the meaning, the limits where they say something, and the default."""
        notes: list[str] = []
        says_little = self.limits.replace(", ", "|") == self.metavar or _SAYS_LITTLE.match(self.limits)
        if not says_little and not all(choice in self.meaning for choice in self.limits.split(", ")):
            notes.append(self.limits)
        if self.shown_default and not (self.kind == "switch" and self.default is False):
            notes.append(f"default {self.shown_default}")
        return f"{self.meaning} ({'; '.join(notes)})" if notes else self.meaning


@cache  # asked by the parser, the loader and the check of required settings
def flags_of(kind: type[Frozen]) -> tuple[Flag, ...]:
    """List every setting of a class and of its groups, in the order of the class."""
    return tuple(_flags(kind, "", ""))


def setting_names(kind: type[Frozen]) -> list[str]:
    """List every setting by dotted path, in the order of the class."""
    return [flag.setting for flag in flags_of(kind)]


def _flags(kind: type[Frozen], prefix: str, title: str) -> Iterable[Flag]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Frozen):
            yield from _flags(field.annotation, f"{prefix}{name}.", field.description or name)
            continue
        shown = cast(Shown, field.json_schema_extra or {})
        # A union of a number and a list is typed as one value; of a list and a word as several.
        is_union = get_origin(field.annotation) in (Union, UnionType)
        members = get_args(field.annotation) if is_union else (field.annotation,)
        types = [get_args(member)[0] if get_origin(member) is Annotated else member for member in members]
        is_list = any(get_origin(part) is tuple for part in types) and int not in types
        is_switch = field.annotation is bool
        choices = ", ".join(choice for choice in _choices(field.annotation) if choice)
        metavar = "N"
        if choices:
            metavar = choices.replace(", ", "|") if len(choices) < _MOST_CHOICES else "KIND"
        elif str in (parts := get_args(field.annotation) or types) and int not in parts:
            metavar = _METAVARS.get(name, name.upper())
        found = {key: getattr(part, key) for part in field.metadata for key, _ in _LIMITS if hasattr(part, key)}
        path = prefix + name
        names = shown.get("flags") or ("" if prefix else _SPELLINGS.get(name))
        yield Flag(
            setting=path,
            names=tuple(names.split()) if names else (f"--{path if prefix else name.replace('_', '-')}",),
            kind="switch" if is_switch else "list" if is_list else "value",
            default=field.default,
            meaning=field.description or "",
            limits=choices or " ".join(text.format(found[key]) for key, text in _LIMITS if key in found),
            metavar=shown.get("metavar", metavar),
            group=shown.get("group") or title or DEFAULT_GROUP,
            bare=shown.get("bare", "true" if is_switch else None),
            position=shown.get("position", False),
            repeats=shown.get("repeats", False),
            of_lists=any(_holds_lists(part) for part in types),
            required=shown.get("required", False),
            on_resume=shown.get("on_resume", False),
        )


def _holds_lists(kind: Any) -> bool:
    """Return whether a type is a tuple of tuples."""
    items = get_args(kind) if get_origin(kind) is tuple else ()
    inner = get_args(items[0])[0] if items and get_origin(items[0]) is Annotated else (*items, None)[0]
    return get_origin(inner) is tuple


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    found = [choice for member in get_args(annotation) for choice in _choices(member)]
    return found if get_origin(annotation) in (Union, UnionType, tuple) else []


def suggest(name: str, flags: Sequence[Flag]) -> str:
    """Return `; did you mean X?` for the setting nearest to a name, or an empty text."""
    inside = [flag.setting for flag in flags if flag.setting.startswith(f"{name}.")]
    if inside:
        return f"; it is a group of settings, such as {inside[0]}"
    last = name.rpartition(".")[2]
    last = OLD_NAMES.get(last, last)
    tails = {flag.setting.rpartition(".")[2]: flag.setting for flag in reversed(flags)}
    # In this order: another name of a setting, the beginning of one, and what is spelled much like one.
    found = [
        flag.setting
        for flag in flags
        if last == flag.setting.rpartition(".")[2]
        or last in (word.lstrip("-").replace("-", "_") for word in flag.names)
    ]
    found += [tails[tail] for tail in reversed(tails) if len(last) > 1 and tail.startswith(last)]
    found = found or [nearest(name, tails.values())]
    best = found[0] or tails.get(nearest(last, tails, cutoff=0.7 if "." in name else 0.6), "")
    return f"; did you mean {best}?" if best else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the known word that is most like this one, or an empty text."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known word that is most like this one, or an empty text."""
    return (difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff) or [""])[0]
