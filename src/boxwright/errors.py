"""The exception that stands for a user's mistake, and one of its kinds that a search goes on after.

Raise `UserError` with one clear sentence: what is wrong, where (file and line), what would be right. The command line
prints it without a traceback and exits with code 2.
"""

from __future__ import annotations

import re


class UserError(Exception):
    """Something the user can mend: a bad path, a bad file, a bad setting."""


class DivergedError(UserError):
    """Training has come to a loss or gradient that is not finite."""


MEMORY_ADVICE = (
    "memory ran out: take a smaller --batch-size or --imgsz, fewer --workers, or no --cache ram; other programs may "
    "hold memory, too"
)
_OUT_OF_MEMORY = (
    *("not enough memory", "out of memory", "cannot allocate memory", "insufficient memory", "bad_alloc"),
    *("can't allocate", "unable to allocate", "unable to mmap", "failed to map segment", "storage size calculation"),
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it came from, says that memory ran out, whichever library says so."""
    while error is not None:
        told = isinstance(error, RuntimeError | OSError | ImportError) or type(error).__module__.startswith("cv2")
        text = str(error).lower().strip()
        # The last is oneDNN's where it has no memory for a kernel; its other errors go on with "descriptor".
        is_memory = any(words in text for words in _OUT_OF_MEMORY) or text.endswith("could not create a primitive")
        if isinstance(error, MemoryError) or (told and is_memory):
            return True
        error = error.__cause__ or error.__context__
    return False


_NO_OPERATOR = re.compile(
    r"(?:The operator|Could not run) '(?P<operator>[\w:.]+)' "
    r"(?:is not currently implemented for the|with arguments from the) '?(?P<device>\w+)"
)


def missing_operator(error: BaseException) -> str:
    """Say in a sentence that PyTorch or torchvision lacks an operator for a device; "" for any other error."""
    found = _NO_OPERATOR.search(str(error)) if isinstance(error, NotImplementedError) else None
    if found is None:
        return ""
    operator, device = found["operator"], found["device"]
    if operator.startswith("torchvision::"):
        return (
            f"torchvision was built without {device} (it has no {operator} for it); install both anew in one command: "
            "pip install --force-reinstall torch torchvision"
        )
    fallback = ", or set PYTORCH_ENABLE_MPS_FALLBACK=1, so that the CPU computes this one" if device == "MPS" else ""
    return f"PyTorch has no operator {operator} for {device}: give --device cpu{fallback}"


def reason(error: OSError) -> str:
    """Return what the system says about an error, without its number and the path."""
    return (error.strerror or str(error)).lower()
