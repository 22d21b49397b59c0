"""An array that grows at its end without a second copy of what is in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Growing:
    """Rows of one type, appended some at a time; a buffer that is enlarged in place."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._bytes = bytearray()

    def append(self, rows: NDArray[Any]) -> None:
        self._bytes += np.ascontiguousarray(rows, self.dtype).tobytes()

    def __len__(self) -> int:
        return len(self._bytes) // self.dtype.itemsize

    def array(self) -> NDArray[Any]:
        """All rows; nothing can be appended as long as the array lives."""
        return np.frombuffer(self._bytes, self.dtype)


class GrowingNames:
    """Names one after the other as bytes, with the place where each ends."""

    def __init__(self) -> None:
        self._text = Growing(np.uint8)
        self._ends = Growing(np.int64)

    def append(self, names: list[str]) -> None:
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        start = len(self._text)
        self._text.append(np.frombuffer(b"".join(encoded), np.uint8))
        self._ends.append(start + np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bytes and (N + 1,) offsets."""
        return self._text.array(), np.concatenate(([0], self._ends.array())).astype(np.int64)
