"""Tokens as 64-bit keys, and where a key stands in a table.

A token is 32 characters, of which the full data set has ten million. Their keys (BLAKE2b, 8 bytes) take an eighth of
the memory and are found by binary search. Two tokens of one table that share a key, which has a probability of 2e-7 at
2.6 million tokens, would be reported as a token that stands twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boxwright.errors import UserError
from boxwright.nuscenes.tables import read_table

Keys = NDArray[np.uint64]


def token_keys(tokens: Sequence[Any]) -> Keys:
    """(N,) keys of tokens; 0 for the empty one, which points nowhere on purpose."""
    digests = b"".join(blake2b(str(token).encode(), digest_size=8).digest() if token else b"\0" * 8 for token in tokens)
    return np.frombuffer(digests, np.uint64)


class TokenTable:
    """Finds the position of a token in a table.

    Args:
        keys: (N,) keys of its tokens, in the order of the table.
        folder, table: where it was read, for messages.
    """

    def __init__(self, keys: Keys, folder: Path, table: str) -> None:
        self._order = np.argsort(keys).astype(np.int32 if len(keys) < 2**31 else np.int64)
        self._sorted = keys[self._order]
        self._folder, self._table = folder, table
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if len(twice):
            token = _token_of(folder, table, "token", int(self._sorted[twice[0]]))[0]
            raise UserError(f"{folder / table}.json: the token {token} stands twice")

    def __len__(self) -> int:
        return len(self._sorted)

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """(N,) positions in the table; -1 where it has no such token."""
        if not len(self._sorted):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        return np.where(self._sorted[at] == keys, self._order[at], -1).astype(np.int64)

    def resolve(self, keys: Keys, source: str, field: str) -> NDArray[np.int64]:
        """(N,) positions of the tokens that a field of another table holds.

        Raises:
            UserError: one of them points nowhere; the sentence names it and its record.
        """
        found = self.find(keys)
        lost = np.flatnonzero(found < 0)
        if len(lost):
            raise lost_token(self._folder, source, field, int(keys[lost[0]]), self._table)
        return found


def lost_token(folder: Path, source: str, field: str, key: int, target: str) -> UserError:
    """The mistake of a token that points nowhere; the table is read again, since only keys were kept."""
    value, record = _token_of(folder, source, field, key)
    shown = f"the {field} {value}" if value else f"an empty {field}"
    return UserError(f"{folder / source}.json: record {record} has {shown}, which is not in {target}.json")


def _token_of(folder: Path, table: str, field: str, key: int) -> tuple[str, str]:
    for record in read_table(folder, table):
        value: Any = record.get(field, "")
        for token in value if isinstance(value, list) else [value]:
            if int(token_keys([token])[0]) == key:
                return str(token), str(record.get("token", "?"))
    return "?", "?"
