"""The search space: which values are searched, between which limits, as a table or a yaml of the user."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from boxwright.errors import UserError
from boxwright.settings.load import Setting, read_yaml_settings


@dataclass(frozen=True, slots=True)
class Range:
    gain: float  # of the published mutation; 0: the value stays as it is, with every sampler
    low: float  # both limits can be drawn
    high: float

    @property
    def is_logarithmic(self) -> bool:
        """Whether TPE and CMA-ES should draw its logarithm: it spans at least three powers of ten."""
        return self.low > 0 and self.high / self.low >= 1000


Space = Mapping[str, Range]  # by dotted path of the setting


def searched(space: Space) -> Space:
    """Select the values that have a gain: the others stay as they are."""
    return {name: limits for name, limits in space.items() if limits.gain > 0}


def read_space(path: Path, setting_of: Callable[[str], str], check: Callable[[str, Setting], object]) -> Space:
    """Read limits from yaml: a setting's path to [gain, low, high] or [low, high].

    Args:
        path: of the yaml.
        setting_of: dotted path of the setting that a key names; raises ValueError with a hint where it names none.
        check: raises UserError for a limit that no run would take.

    Raises:
        UserError: lists every line that names no hyper-parameter or has no proper limits; or nothing is searched.
    """
    space: dict[str, Range] = {}
    problems: list[str] = []
    for name, setting in read_yaml_settings(path).items():
        try:
            target = setting_of(name)
            if target in space:
                raise UserError(f"{setting.origin}: {name} is limited a second time")
            space[target] = _range(target, setting)
            for limit in (space[target].low, space[target].high):
                check(target, Setting(limit, setting.origin))
        except ValueError as error:
            problems.append(f"{setting.origin}: {name} is no hyper-parameter{error}")
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n  ".join(["the search space has mistakes:", *problems]))
    if not searched(space):
        raise UserError(f"{path} leaves nothing to search: it is lines such as `optim.lr0: [1, 0.00001, 0.1]`")
    return space


def _range(name: str, setting: Setting) -> Range:
    values = cast("list[Any]", setting.value) if isinstance(setting.value, list) else []
    try:  # yaml takes 1e-5, without a point, for a word
        numbers = [float(number) for number in values if not isinstance(number, bool)]
    except (TypeError, ValueError):
        numbers = []
    gain, low, high = numbers if len(numbers) == 3 else (1.0, *numbers) if len(numbers) == 2 else (math.nan,) * 3
    if len(numbers) != len(values) or not (0 <= gain < math.inf and -math.inf < low < high < math.inf):
        raise UserError(
            f"{setting.origin}: {name} takes [gain, low, high] or [low, high], all of them numbers, low below high and "
            f"no gain below 0, got {setting.value!r}"
        )
    return Range(gain, low, high)
