"""Callbacks that a run names in its settings: `mlflow`, and those of installed packages, by entry point.

A package offers one in its pyproject.toml:

    [project.entry-points."boxwright.callbacks"]
    my-log = "my_package.log:MyLog"

where MyLog is a subclass of `Callback`, or a function, that takes no arguments. It is loaded only where a run names it
(`--callbacks my-log`), so that what is installed changes no run by itself.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from boxwright.engine.callbacks import Callback
from boxwright.errors import UserError

GROUP = "boxwright.callbacks"
MLFLOW = EntryPoint("mlflow", "boxwright.engine.mlflow_log:MlflowLog", GROUP)


def named_callbacks(names: Sequence[str]) -> list[Callback]:
    """Make the callbacks of these names.

    Raises:
        UserError: nothing of that name is installed, it cannot be loaded, or it is named twice.
    """
    offered = {point.name: point for point in (*entry_points(group=GROUP), MLFLOW)}
    for name in names:
        if name not in offered:
            raise UserError(
                f"there is no callback {name!r} to be named in callbacks; there are {', '.join(sorted(offered))}"
            )
        if list(names).count(name) > 1:
            raise UserError(f"callback {name!r} is named twice in callbacks")
    return [_loaded(offered[name]) for name in names]


def _loaded(point: EntryPoint) -> Callback:
    try:
        callback = point.load()()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"callback {point.name!r} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return _checked(callback, f"callback {point.name!r} ({point.value})")


def checked_callbacks(callbacks: Sequence[object], num_processes: int) -> tuple[Callback, ...]:
    """Callbacks given as objects, if a run of so many processes can take them.

    Raises:
        UserError: one is no callback, or there are several processes and it cannot be sent to them.
    """
    if isinstance(callbacks, Callback):
        raise UserError("callbacks is a list of callbacks, not a callback by itself: write callbacks=[...]")
    checked = tuple(_checked(callback, f"callbacks[{number}]") for number, callback in enumerate(callbacks))
    for callback in checked if num_processes > 1 else ():
        try:
            pickle.dumps(callback)
        except Exception as error:
            raise UserError(
                f"callback {type(callback).__name__} cannot be sent to the {num_processes} processes of this run "
                f"({error}); its class has to stand in a module, and what it holds has to be picklable"
            ) from error
    return checked


def _checked(callback: object, what: str) -> Callback:
    if not isinstance(callback, Callback):
        raise UserError(f"{what} is of type {type(callback).__name__}, not a subclass of engine.callbacks.Callback")
    return callback
