"""The exception that stands for a user's mistake, and one of its kinds that a search goes on after.

Raise `UserError` with one clear sentence: what is wrong, where (file and line), what would be right. The command line
prints it without a traceback and exits with code 2.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: a bad path, a bad file, a bad setting."""


class DivergedError(UserError):
    """Training has come to a loss or gradient that is not finite."""
