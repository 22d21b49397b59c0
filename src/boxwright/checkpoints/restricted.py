"""A reader for pickles that builds values and calls nothing of the outside.

`pickletools.genops` splits the pickle into operations; `read_pickle` carries out those on a closed list, on plain
Python values, with the names and callables of inert.py. So there is nothing that a hostile file could reach, and
whatever is not listed is refused by name.

Source: the pickle operations as documented in the standard library's `pickletools`.
"""

import pickletools
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from boxwright.checkpoints.inert import (
    CALLS,
    DTYPES,
    STORAGES,
    DamagedError,
    Name,
    RefusedError,
    StandIn,
    scalar_key,
)
from boxwright.errors import is_out_of_memory

# Makes the one-dimensional tensor of a whole storage from its key, type and number of items; called once a key. Raises
# DamagedError if there is none of that size.
NewStorage = Callable[[str, torch.dtype, int], Tensor]


def read_pickle(data: Any, new_storage: NewStorage) -> Any:
    """Read one pickle.

    Args:
        data: bytes, or a binary file that stands at the beginning of the pickle and is left behind its end.
        new_storage: gives the storages that the pickle refers to.

    Returns:
        plain values, containers, tensors on the CPU, `Name`s and `StandIn`s.

    Raises:
        RefusedError: the pickle asks for something not on the list; the message names it.
        DamagedError: the pickle is malformed.
    """
    try:
        return _Machine(new_storage).run(pickletools.genops(data))
    except (RefusedError, DamagedError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise DamagedError(f"the pickle is malformed ({type(error).__name__}: {error})") from error


_MOST_VIEWS, _SMALL = 4, 1 << 20  # bytes of all tensors, as a multiple of those of the storages, and what is no matter
_DEEPEST, _EXPANSION = 100, 4


def check_shared(content: Any) -> None:
    """Refuse containers that contain themselves, or that others share so often that walking them has no end.

    Stand-ins are not entered more than once: whoever walks a network of them has limits of his own.

    Raises:
        DamagedError: says which of it.
    """
    sizes: dict[int, tuple[int, int]] = {}  # by the id of a container: values that it stands for, levels in it
    entered: set[int] = set()
    waiting = [content]
    distinct = 0
    while waiting:
        value = waiting[-1]
        if not _is_container(value) or id(value) in sizes:
            waiting.pop()
            continue
        parts = value.state.values() if isinstance(value, StandIn) else value.values() if type(value) is dict else value
        unknown = [part for part in parts if _is_container(part) and id(part) not in sizes]
        if isinstance(value, StandIn):
            waiting.pop()
            waiting += unknown
            sizes[id(value)] = 1, 0
            continue
        if unknown:
            if id(value) in entered or any(id(part) in entered for part in unknown):
                raise DamagedError("a container contains itself")
            entered.add(id(value))
            waiting += unknown
            continue
        waiting.pop()
        below = [sizes.get(id(part), (1, 0)) for part in parts]
        size, levels = 1 + sum(item[0] for item in below), 1 + max((item[1] for item in below), default=0)
        distinct += 1 + len(below)
        if levels > _DEEPEST:
            raise DamagedError(f"its containers are nested deeper than {_DEEPEST}")
        if size > _EXPANSION * distinct + 10_000:
            raise DamagedError("its containers share others so often that they stand for more than the file can hold")
        sizes[id(value)] = size, levels


def _is_container(value: Any) -> bool:
    return type(value) in (list, tuple, dict, set, StandIn)


class _Machine:
    """Stack, marks, memo and storages of one pickle."""

    def __init__(self, new_storage: NewStorage) -> None:
        self.new_storage = new_storage
        self.storages: dict[str, Tensor] = {}
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.viewed = 0  # bytes of all tensors

    def run(self, operations: Iterator[tuple[Any, Any, int | None]]) -> Any:
        for operation, arg, _ in operations:
            name: str = operation.name
            if name == "STOP":
                content = self.stack.pop()
                check_shared(content)
                return content
            if name in LITERALS:
                self.stack.append(arg)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name]())
            elif name in OPERATIONS:
                OPERATIONS[name](self, arg)
            elif name == "INST":
                raise RefusedError(str(arg).replace(" ", "."))
            else:
                raise RefusedError(f"the pickle operation {name}" + ("" if arg is None else f" {arg!r}"))
        raise DamagedError("the pickle has no end")

    def take(self, count: int) -> list[Any]:
        """Take the topmost values off the stack, the lowest one first."""
        start = len(self.stack) - count
        if start < 0:
            raise DamagedError("the pickle takes more values than there are")
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def take_to_mark(self) -> list[Any]:
        return self.take(len(self.stack) - self.marks.pop())

    def fill(self, kind: type, items: list[Any]) -> None:
        """Put items into the container at the top; those of a dict are keys and values by turns."""
        target = self.stack[-1]
        # By its exact type: filling a tensor or a stand-in would call what is not on the list.
        if type(target) is not kind:
            raise DamagedError(f"the pickle fills a {type(target).__name__} as if it were a {kind.__name__}")
        if kind is list:
            target.extend(items)
        elif kind is set:
            target.update(map(scalar_key, items))
        else:
            target.update(zip(map(scalar_key, items[0::2]), items[1::2], strict=True))

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def push_name(self, module: Any, attribute: Any) -> None:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise DamagedError("the pickle names something by a value that is no text")
        name = Name(f"{module}.{attribute}")
        if name.text in DTYPES:
            self.stack.append(DTYPES[name.text])
        elif name.text in CALLS or name.text in STORAGES or name.is_stand_in:
            self.stack.append(name)
        else:
            raise RefusedError(name.text)

    def call(self, _: Any) -> None:
        args, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, Name) or type(args) is not tuple:
            raise RefusedError(f"a call of a {type(callee).__name__}")
        if callee.text in CALLS:
            made = CALLS[callee.text](*cast(tuple[Any, ...], args))
            if isinstance(made, Tensor):
                # Views of one storage become numbers of their own when they are converted.
                self.viewed += made.nbytes
                if self.viewed > _MOST_VIEWS * sum(storage.nbytes for storage in self.storages.values()) + _SMALL:
                    raise DamagedError("its tensors show the same numbers again and again")
            self.stack.append(made)
        elif callee.is_stand_in:
            self.stack.append(StandIn(callee.text))
        else:
            raise RefusedError(f"a call of {callee.text}")

    def build(self, _: Any) -> None:
        """Give an object its state. Only stand-ins take one; an ordered dict's notes about itself are dropped."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is dict or (isinstance(target, StandIn) and target.class_name.startswith("numpy.")):
            return
        if isinstance(target, np.dtype):
            return  # byte order and alignment, which `number_type` has already checked
        if not isinstance(target, StandIn):
            raise RefusedError(f"setting the state of a {type(target).__name__}")
        for part in cast(tuple[Any, ...], state if type(state) is tuple else (state,)):
            if type(part) is dict and all(type(key) is str for key in cast(dict[Any, Any], part)):
                target.state.update(cast(dict[str, Any], part))
            elif part is not None:
                raise DamagedError(f"the state of {target.class_name} is no mapping")

    def persistent(self, _: Any) -> None:
        """Return a storage, as `torch.save` refers to it."""
        reference = self.stack.pop()
        if type(reference) is not tuple or len(cast(tuple[Any, ...], reference)) < 2:
            raise DamagedError("the pickle refers to something outside that is no storage")
        kind, what, *rest = cast(tuple[Any, ...], reference)
        if kind == "module" and isinstance(what, Name):  # files of before PyTorch 1.6: a class and its source text
            self.stack.append(what)
            return
        dtype = STORAGES.get(what.text) if isinstance(what, Name) else None
        if kind != "storage" or dtype is None or len(rest) < 3:
            raise DamagedError("the pickle refers to something outside that is no storage")
        key, _, num_items = rest[:3]
        if type(key) is not str or type(num_items) is not int or num_items < 0:
            raise DamagedError("the pickle refers to a storage by a malformed key")
        if key not in self.storages:
            self.storages[key] = self.new_storage(key, dtype, num_items)
        storage = self.storages[key]
        # torch.save describes a storage the same way wherever it refers to it.
        if storage.dtype != dtype or storage.numel() != num_items:
            raise DamagedError(f"storage {key} is used in two ways")
        self.stack.append(storage)


NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT"}
TEXTS = {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"}
LITERALS = NUMBERS | TEXTS | {"BINBYTES", "SHORT_BINBYTES"}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, arg: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, arg: machine.stack.append(machine.memo[arg])),
    "MARK": lambda machine, arg: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, arg: machine.stack.append(tuple(machine.take_to_mark())),
    "TUPLE1": lambda machine, arg: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine, arg: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine, arg: machine.stack.append(tuple(machine.take(3))),
    "APPEND": lambda machine, arg: machine.fill(list, machine.take(1)),
    "APPENDS": lambda machine, arg: machine.fill(list, machine.take_to_mark()),
    "ADDITEMS": lambda machine, arg: machine.fill(set, machine.take_to_mark()),
    "SETITEM": lambda machine, arg: machine.fill(dict, machine.take(2)),
    "SETITEMS": lambda machine, arg: machine.fill(dict, machine.take_to_mark()),
    "GLOBAL": lambda machine, arg: machine.push_name(*arg.split(" ", 1)),  # "module name" in one text
    "STACK_GLOBAL": lambda machine, arg: machine.push_name(*machine.take(2)),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
