"""Where a run writes: exp, exp2, exp3 ... below a project folder."""

from __future__ import annotations

from pathlib import Path

from boxwright.errors import UserError


def new_run_folder(project: str | Path, name: str, exist_ok: bool = False) -> Path:
    """Make the folder of a new run and return it.

    Args:
        project: folder of runs, e.g. runs/train.
        name: wished name; where it is taken, a number from 2 upwards is appended.
        exist_ok: write into the folder of that name even if it is there.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    project = Path(project)
    number = 1
    while True:
        folder = project / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            probe = folder / ".boxwright_can_write"
            probe.touch()
            probe.unlink()
        except FileExistsError:
            if exist_ok:  # a plain file is in the way
                raise UserError(f"run folder {folder} cannot be made: a file of that name is there") from None
            number += 1
        except OSError as error:
            raise UserError(
                f"run folder {folder} cannot be written ({error.strerror}); choose another place with --project"
            ) from error
        else:
            return folder
