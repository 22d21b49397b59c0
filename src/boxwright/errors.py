"""The one exception that stands for a user's mistake.

Raise `UserError` with one clear sentence: what is wrong, where (file and line), what would be right. The command line
prints it without a traceback and exits with code 2.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: a bad path, a bad file, a bad setting."""
