"""The store of the launcher (PyTorch's TCPStore at MASTER_ADDR:MASTER_PORT), which lives as long as it does, and a part
of it for each start.

When torchrun starts processes anew, the store still holds the addresses of those before, so that a new process may
try to reach a dead one. Restarts are not numbered alike on all machines. So the processes of a start agree on a name of
their own: the first calls a new one, each other answers, the first lists the answers, and who is not in the list has
answered a call of before and looks for a newer one.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from boxwright.errors import UserError

_CALL = "boxwright call"
_SECONDS_TO_MEET = 600.0
_PAUSE = 0.05


def launcher_store(seconds: float = 30) -> TCPStore | None:
    """A connection to the store of torchrun, whose requests wait so long at most; None where there is no torchrun."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or not host or not port:
        return None
    timeout = timedelta(seconds=seconds)
    try:
        return TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=timeout)
    except RuntimeError:  # its machine is gone
        return None


def store_of_this_start(store: TCPStore, rank: int, size: int) -> PrefixStore:
    """The part of the store that only the processes see that were started together with this one.

    Raises:
        UserError: they do not all come.
    """
    own, end = uuid.uuid4().hex, time.monotonic() + _SECONDS_TO_MEET
    if rank == 0:
        store.set(_CALL, own)
        answers = [f"{own} {other}" for other in range(1, size)]
        _until(lambda: store.check(answers), end)
        store.set(f"{own} list", " ".join(store.get(answer).decode() for answer in answers))
        return PrefixStore(own, store)
    call = ""
    while True:
        _until(lambda: store.check([_CALL]) and store.get(_CALL).decode() != call, end)  # noqa: B023  # used at once
        call = store.get(_CALL).decode()
        store.set(f"{call} {rank}", own)
        _until(lambda: store.check([f"{call} list"]) or store.get(_CALL).decode() != call, end)  # noqa: B023
        if store.check([f"{call} list"]) and own in store.get(f"{call} list").decode().split():
            return PrefixStore(call, store)


def _until(done: Callable[[], bool], end: float) -> None:
    while not done():
        if time.monotonic() > end:
            raise UserError(f"not all processes of this run have started within {_SECONDS_TO_MEET:.0f} seconds")
        time.sleep(_PAUSE)
