"""A module from its text: `Conv2d(64, 128, 3, padding=1)`, `C3(64, 64, 2)`, `Sequential(ReLU(), Flatten())`.

The text is parsed, never executed: a name, and arguments that are plain values or modules again. Names are those of
`torch.nn` and of our own blocks (layers.py).
"""

from __future__ import annotations

import ast
import difflib
import inspect

from torch import nn

from boxwright.errors import UserError
from boxwright.yolo import layers


def build_module(text: str) -> nn.Module:
    """Build the module that a text describes, with random weights. Our blocks take SiLU where none is named.

    Raises:
        UserError: no such module, arguments that are no plain values, or that the module does not take.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"cannot read the module '{text}': write it like Conv2d(64, 128, 3, padding=1)") from error
    if not isinstance(tree, ast.Call):
        raise UserError(f"'{text}' is no module with arguments; write it like Conv2d(64, 128, 3, padding=1)")
    return _build(tree, text)


def _build(call: ast.Call, text: str) -> nn.Module:
    kind = _find_class(_name(call.func, text))
    if any(isinstance(arg, ast.Starred) for arg in call.args) or any(k.arg is None for k in call.keywords):
        raise UserError(f"'{text}': arguments are written out, not unpacked with a star")
    args = [_value(arg, text) for arg in call.args]
    named = {keyword.arg: _value(keyword.value, text) for keyword in call.keywords if keyword.arg}
    if kind.__module__ == layers.__name__ and "activation" in inspect.signature(kind).parameters:
        named.setdefault("activation", nn.SiLU())
    try:
        return kind(*args, **named)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        raise UserError(f"'{text}' cannot be built: {str(error).splitlines()[0] or type(error).__name__}") from error


def _name(function: ast.expr, text: str) -> str:
    """`Conv2d`, `nn.Conv2d` or `torch.nn.Conv2d`."""
    name = ast.unparse(function).removeprefix("torch.").removeprefix("nn.")
    if not name.isidentifier():
        raise UserError(f"'{text}': {name} is no name of a module")
    return name


def _find_class(name: str) -> type[nn.Module]:
    for place in (layers, nn):
        found = vars(place).get(name)
        if isinstance(found, type) and issubclass(found, nn.Module) and not name.startswith("_"):
            return found
    known = [name for place in (layers, nn) for name, kind in vars(place).items() if isinstance(kind, type)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"neither torch.nn nor Boxwright has a module {name}{hint}")


def _value(node: ast.expr, text: str) -> object:
    if isinstance(node, ast.Call):
        return _build(node, text)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(
            f"'{text}': {ast.unparse(node)} is no plain value (numbers, texts, lists, True, False, None)"
        ) from error
