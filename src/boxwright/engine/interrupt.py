"""SIGTERM and SIGINT: the running step is finished and saved; a second signal ends the process at once.

One of several processes does not go at a second signal: Ctrl-C reaches it from the terminal and from its launcher,
which ends it by itself where it takes too long.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}  # what the process exits with


class Interrupt:
    """A context that notes the first signal in `received`. Outside the main thread it notes nothing.

    Args:
        patient: a second signal is noted too, and does not end the process.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if not self.patient:
            signal.signal(number, signal.SIG_DFL)
