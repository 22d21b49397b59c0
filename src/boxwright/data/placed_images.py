"""Images of one data set that appear in another: under which name, and linked or copied. A folder is made as a whole.

What is not here: labels (convert, written_coco, written_voc).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from boxwright.errors import UserError


def free_stems(images: Iterable[Path]) -> list[str]:
    """A name without suffix for each image, all different: its own, or with a number where another has it already.

    Dots that a name begins with are left out, because hidden files are no images; so are blanks around it.
    """
    stems: dict[str, None] = {}  # in order
    for image in images:
        wished = image.stem.strip().lstrip(". ") or "image"
        stem, count = wished, 1
        while stem in stems:
            count += 1
            stem = f"{wished}_{count}"
        stems[stem] = None
    return list(stems)


def place_image(image: Path, place: Path, *, copy: bool = False) -> None:
    """Make an image appear at a free place: by a symbolic link to the file itself, or by a copy.

    A copy is taken as well where the file system has no links.
    """
    if not copy:
        try:
            place.symlink_to(os.path.realpath(image))
        except (OSError, NotImplementedError):
            pass
        else:
            return
    shutil.copyfile(image, place)


def require_free(folder: Path) -> None:
    """Raise a UserError if something is at this place that is no empty folder."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; name a new folder, nothing is overwritten")
    elif os.path.lexists(folder):
        raise UserError(f"{folder} is a file; name a new folder")


@contextmanager
def whole_folder(folder: Path) -> Generator[Path]:
    """A folder that is there with everything that was written into it, or not at all.

    Args:
        folder: must not exist, or be empty.

    Yields:
        a folder beside it, which takes its name at the end and is removed when something goes wrong.

    Raises:
        UserError: the place is taken, or something cannot be written.
    """
    require_free(folder)
    made = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        made.mkdir(parents=True)
        yield made
        if folder.is_dir():
            folder.rmdir()  # it is empty, as required above
        made.rename(folder)
    except UnicodeEncodeError as error:
        raise UserError(f"cannot write {folder}: a file name in it is not Unicode text: {error.object!r}") from error
    except OSError as error:
        place = str(error.filename or folder).replace(str(made), str(folder))
        raise UserError(f"cannot write {place}: {(error.strerror or str(error)).lower()}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
