"""Every setting of a class as one flat list: dotted path, spellings, kind of value, default, limits, meaning."""

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from boxwright.settings.base import Frozen

DEFAULT_GROUP = "the run"
_MOST_CHOICES = 24  # characters of a metavar that lists the choices
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
    hyp: tuple[str, ...]  # keys of published hyper-parameter files
    position: bool
    repeats: bool
    required: bool
    on_resume: bool

    @property
    def shown_default(self) -> str:
        """The default as it would be typed; empty where there is none."""
        value = self.default
        if isinstance(value, tuple):
            return " ".join(str(item) for item in cast("tuple[Any, ...]", value))
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@cache
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
        extra = cast("Mapping[str, Any]", field.json_schema_extra or {})
        path = prefix + name
        names = str(extra.get("flags", "")) or f"--{path if prefix else name.replace('_', '-')}"
        choices = _choices(field.annotation)
        kind_of_value = _kind(field.annotation)
        yield Flag(
            setting=path,
            names=tuple(names.split()),
            kind=kind_of_value,
            default=field.default,
            meaning=field.description or "",
            limits=_limits(field, choices),
            metavar=str(extra.get("metavar", "")) or _metavar(field, choices),
            group=str(extra.get("group", "")) or title or DEFAULT_GROUP,
            bare=extra.get("bare", "true" if kind_of_value == "switch" else None),
            hyp=tuple(str(extra.get("hyp", "")).split()),
            position=bool(extra.get("position")),
            repeats=bool(extra.get("repeats")),
            required=bool(extra.get("required")),
            on_resume=bool(extra.get("on_resume")),
        )


def _kind(annotation: Any) -> Literal["value", "switch", "list"]:
    """A union of a number and a list is typed as one value; a list or a word as several."""
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    members = tuple(get_args(member)[0] if get_origin(member) is Annotated else member for member in members)
    if annotation is bool:
        return "switch"
    return "list" if any(get_origin(member) is tuple for member in members) and int not in members else "value"


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    found = [choice for member in get_args(annotation) for choice in _choices(member)]
    return found if get_origin(annotation) in (Union, types.UnionType, tuple) else []


def _metavar(field: FieldInfo, choices: Sequence[str]) -> str:
    listed = "|".join(choice for choice in choices if choice)
    if choices:
        return listed if len(listed) <= _MOST_CHOICES else "KIND"
    members = get_args(field.annotation) or (field.annotation,)
    return "TEXT" if str in members and int not in members and float not in members else "N"


def _limits(field: FieldInfo, choices: Sequence[str]) -> str:
    if choices:
        return ", ".join(choice for choice in choices if choice)
    found = {name: getattr(part, name) for part in field.metadata for name, _ in _LIMITS if hasattr(part, name)}
    return " ".join(text.format(found[name]) for name, text in _LIMITS if name in found)


def suggest(name: str, flags: Sequence[Flag]) -> str:
    """Return `; did you mean X?` for the setting nearest to a name, or an empty text."""
    inside = [flag.setting for flag in flags if flag.setting.startswith(f"{name}.")]
    if inside:
        return f"; it is a group of settings, such as {inside[0]}"
    last = name.rpartition(".")[2]
    tails = {flag.setting.rpartition(".")[2]: flag.setting for flag in reversed(flags)}
    begun = [tail for tail in reversed(tails) if tail.startswith(last)] if len(last) > 1 else []
    found = _by_other_name(last, flags) or (tails[begun[0]] if begun else nearest(name, tails.values()))
    found = found or tails.get(nearest(last, tails, cutoff=0.7 if "." in name else 0.6), "")
    return f"; did you mean {found}?" if found else ""


def _by_other_name(last: str, flags: Sequence[Flag]) -> str:
    for flag in flags:
        spelled = {word.lstrip("-").replace("-", "_") for word in flag.names}
        if last in {*spelled, *flag.hyp, flag.setting.rpartition(".")[2]}:
            return flag.setting
    return ""


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known word that is most like this one, or an empty text."""
    return (difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff) or [""])[0]
