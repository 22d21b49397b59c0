"""Files and folders written whole or not at all, system errors as user errors, free names, links, threads."""

import contextlib
import errno
import glob
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Generator, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from boxwright.errors import UserError, reason
from boxwright.extras import NotInstalledError
from boxwright.machine import HAS_LOCKS, OPEN_FLAGS, is_alive, try_lock, wait_for_disk
from boxwright.reading import place_in_tar, read_bytes, read_text
from boxwright.terminal import say_once

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_log = logging.getLogger("boxwright.data")
_THREADS = 8
_BLOCK = 64  # items per task: most answers are quick, and a task of its own would cost more than the answer


@contextlib.contextmanager
def file_errors(action: str, path: Path, advice: str = "") -> Generator[None]:
    """Raise a UserError "cannot ACTION PATH: REASON" in place of an OSError; `advice` ends the sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {action} {path}: {reason(error)}{advice}") from error


def absolute_path(path: str | Path) -> Path:
    """Make a path absolute, for people: without `..` where that is the same file."""
    path = Path(path).expanduser().absolute()
    short = Path(os.path.normpath(path))
    with contextlib.suppress(OSError):  # behind a link, `..` may be the parent of another folder
        return short if short.samefile(path) else path
    return path


def found_below(name: str) -> str:
    """Say where below the current folder a file of this name lies, up to two folders down; empty: it does not.

    Published tools searched for such a file and took it. Which one that would be is for the user to say.
    """
    pattern = glob.escape(Path(name).name)
    found = [file for depth in ("*", "*/*") for file in sorted(Path().glob(f"{depth}/{pattern}")) if file.is_file()]
    return f"; there is {found[0]}" if found else ""


def read_lines(file: Path) -> list[str]:
    """Read the lines of a text file without blanks around them."""
    return [line.strip() for line in read_text(file).splitlines()]


_LONGEST_STEM = 200  # bytes of a name that its hidden one begins with: file systems take 255 for a name


class Hidden:
    """A hidden file or folder beside a path, for what is not whole yet.

    It is created exclusively, under a name that cannot be foreseen: a link that somebody has put there is not followed.
    Its owner keeps it locked. The next process that writes into the folder removes those without an owner, which
    processes that were killed have left.

    Args:
        path: of the whole file or folder.
        folder: make a folder.
        suffix: ends the name, for libraries that go by it.
    """

    def __init__(self, path: Path, *, folder: bool = False, suffix: str = "") -> None:
        self._lock = -1  # the open file that is locked
        self._is_there = False
        while not self._is_there:
            # In the same folder, since a rename is one step only within a file system.
            stem = os.fsdecode(os.fsencode(path.name)[:_LONGEST_STEM])
            name = f".{stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp{suffix}"
            self.path = path.with_name(name)
            if folder:
                self.path.mkdir(parents=True)
            flags = os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT | os.O_EXCL
            with contextlib.suppress(FileNotFoundError if folder else FileExistsError):
                if HAS_LOCKS or not folder:
                    self._lock = os.open(self.path, flags | OPEN_FLAGS, 0o666)
                self._is_there = True
            if not HAS_LOCKS and self._lock >= 0:  # where there are none, a file that is open cannot be renamed
                self._unlock()
            elif self._lock >= 0 and not _lock(self._lock):  # taken for left behind, in this very moment
                self.drop()

    def become(self, path: Path) -> None:
        """Take the name of the path, in one step."""
        os.replace(self.path, path)

    def drop(self) -> None:
        """Remove what is still hidden, and give up the lock; a second call does nothing."""
        if not self._is_there:
            return
        self._is_there = False
        with contextlib.suppress(OSError):
            _remove(self.path)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


# Of earlier versions, which wrote no token, checkpoints and tables alone: others may name files so, too.
_HIDDEN = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp(\.\w+)?|\..+\.(?:pt|csv)\.(\d+)\.tmp")
_swept: set[Path] = set()


def remove_leftovers(folder: Path) -> None:
    """Remove the hidden files and folders that processes have left that are gone; see `Hidden`."""
    _swept.add(folder)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if not entry.is_symlink()]:
            match = _HIDDEN.fullmatch(entry.name)
            process = int(match[1] or match[3]) if match else os.getpid()
            # Earlier versions have locked nothing.
            if not match or (process != os.getpid() and is_alive(process)):
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(entry.path, os.O_RDONLY | OPEN_FLAGS)
                try:
                    if _lock(descriptor, or_else=False):
                        _remove(Path(entry.path))
                        _log.info("removed %s, which a process that is gone has left", entry.path)
                finally:
                    os.close(descriptor)


def _lock(descriptor: int, *, or_else: bool = True) -> bool:
    """Lock an open file that has a name; `or_else` is the answer of file systems that know no locks."""
    try:
        try_lock(descriptor)
    except BlockingIOError:
        return False
    except OSError:
        return or_else
    return os.fstat(descriptor).st_nlink > 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: Path, *, sync: bool = False, make_folder: bool = False, advice: str = "") -> Generator[Path]:
    """Write a file so that readers see all of it or what was there before.

    Args:
        path: takes its content when the block ends without an error.
        sync: return only when the file is on the disk, so that it outlives a power cut.
        make_folder: make the folder that it is in; without, that must exist.
        advice: ends the message of an error.

    Yields:
        where to write: a hidden file beside it, which is removed after an error.

    Raises:
        UserError: it cannot be written.
    """
    with file_errors("write", path, advice):
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        if sync or path.parent not in _swept:
            remove_leftovers(path.parent)
        hidden = Hidden(path)
        try:
            yield hidden.path
            if sync:
                wait_for_disk(hidden.path)
            hidden.become(path)
        finally:
            hidden.drop()
    if sync:
        with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the content is safe by then
            wait_for_disk(path.parent)


def write_atomically(
    path: Path, content: str | bytes | memoryview, *, make_folder: bool = False, advice: str = ""
) -> None:
    """Write text (as UTF-8) or bytes so that readers see all of it or what was there before.

    Raises:
        UserError: it cannot be written; `advice` ends the sentence.
    """
    with whole_file(path, make_folder=make_folder, advice=advice) as temporary:
        temporary.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def csv_cell(value: Any) -> Any:
    """Return a cell of a csv file; text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def open_without_links(path: Path, flags: int) -> int:
    """Open a file of ours that stays, as logs do, to be written; a link in its place is not followed.

    Raises:
        UserError: it cannot be opened, or is a link or a pipe.
    """
    with file_errors("write", path):
        try:
            return os.open(path, flags | os.O_CREAT | OPEN_FLAGS, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise UserError(f"cannot write {path}: it is a link or a pipe, not a file of the run") from error
            raise


def append(path: Path, content: str | bytes) -> None:
    """Append all of a content or nothing. Text begins a new line, also after one that a crash has cut off.

    Raises:
        UserError: it cannot be written.
    """
    descriptor = open_without_links(path, os.O_RDWR | os.O_APPEND)
    try:
        with file_errors("write", path):
            size = os.fstat(descriptor).st_size
            os.lseek(descriptor, max(size - 1, 0), os.SEEK_SET)
            is_torn = isinstance(content, str) and size and os.read(descriptor, 1) != b"\n"
            data = content.encode(errors="backslashreplace") if isinstance(content, str) else content
            try:
                rest = memoryview(b"\n" + data if is_torn else data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
    finally:
        os.close(descriptor)


class JsonList:
    """A json file of a list that is written row by row, and has its name only when it is closed.

    Args:
        path: of the complete file; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = "[\n"
        with file_errors("write", path):
            self._hidden = Hidden(path)
            self._file = self._hidden.path.open("w", encoding="utf-8", errors="backslashreplace")

    def add(self, row: Mapping[str, Any]) -> None:
        with file_errors("write", self.path):
            self._file.write(self._before + json.dumps(row, ensure_ascii=False))
        self._before = ",\n"

    def close(self) -> None:
        try:
            with file_errors("write", self.path):
                self._file.write("[]\n" if self._before == "[\n" else "\n]\n")
                self._file.close()
                self._hidden.become(self.path)
        finally:
            self._hidden.drop()


not_drawn: list[str] = []  # what the verb has gone on without; the command line ends with code 2 then


@contextlib.contextmanager
def picture_errors() -> Generator[None]:
    """Warn of a picture or page that cannot be written, and go on: it is not what the verb was asked for."""
    try:
        yield
    except NotInstalledError as error:  # no fault of this run: told once, and the code of the verb stays
        say_once(f"{error}; going on without it", logging.WARNING)
    except (UserError, OSError) as error:
        _log.warning("%s; going on without it", error)
        not_drawn.append(str(error))


def files_below(folder: Path, suffixes: Collection[str], most: int = 0) -> list[str]:
    """List files of these suffixes, in lower or upper case, below a folder.

    Links are followed, but no folder is entered twice. Hidden files are left out. Where there are more than `most`
    files and folders (0: any number), the list is empty: that is no data set, but the home of all of them.
    """
    seen = 0
    found: list[str] = []
    entered: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        seen += len(folders) + len(names)
        if most and seen > most:
            return []
        folders.sort()
        found += [
            os.path.join(parent, name)
            for name in names
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith(".")
        ]
    return found


def in_any_case(path: str) -> str:
    """Find a file or folder, also by names of its path in other letter case; empty: there is none, or several are."""
    if os.path.exists(path):
        return path
    parent, name = os.path.split(path)
    if not name or (parent and not (parent := in_any_case(parent))):
        return ""
    with contextlib.suppress(OSError):
        same = [entry for entry in os.listdir(parent or os.curdir) if entry.lower() == name.lower()]
        return os.path.join(parent, same[0]) if len(same) == 1 else ""
    return ""


def require_free(folder: Path) -> None:
    """Raise a UserError if something is at this place that is no empty folder."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; name a new folder, nothing is overwritten")
    elif os.path.lexists(folder):
        raise UserError(f"{folder} is a file; name a new folder")


@contextlib.contextmanager
def whole_folder(folder: Path) -> Generator[Path]:
    """Write a folder that is there with everything that was written into it, or not at all.

    Args:
        folder: must not exist, or be empty.

    Yields:
        a folder beside it, which takes its name at the end and is removed when something goes wrong.

    Raises:
        UserError: the place is taken, or something cannot be written.
    """
    require_free(folder)
    with file_errors("write", folder):
        remove_leftovers(folder.parent)
        hidden = Hidden(folder, folder=True)
    try:
        yield hidden.path
        if folder.is_dir():
            folder.rmdir()  # it is empty, as required above
        hidden.become(folder)
    except UnicodeEncodeError as error:
        raise UserError(f"cannot write {folder}: a file name in it is not Unicode text: {error.object!r}") from error
    except OSError as error:
        place = str(error.filename or folder).replace(str(hidden.path), str(folder))
        raise UserError(f"cannot write {place}: {reason(error)}") from error
    finally:
        hidden.drop()


class FreeNames:
    """Names that are given out once: a second owner of the same wish gets a number."""

    def __init__(self) -> None:
        self._owners: dict[str, Hashable] = {}
        self._given: dict[tuple[str, Hashable], str] = {}
        self._counts: dict[str, int] = {}  # the last number for a wish: a million files may have one name

    def take(self, wished: str, owner: Hashable) -> str:
        """Return the name of an owner, the same one for each call with the same wish."""
        if name := self._given.get((wished, owner)):
            return name
        count = self._counts.get(wished, 1)
        name = wished if count == 1 else f"{wished}_{count}"
        while self._owners.setdefault(name, owner) != owner:
            count += 1
            name = f"{wished}_{count}"
        self._counts[wished] = count
        self._given[wished, owner] = name
        return name


def link_or_copy(file: Path, place: Path, *, copy: bool = False) -> None:
    """Make a file appear at a free place: by a symbolic link to the file itself, or by a copy.

    The link is relative, so that both folders can be moved together. A copy is made as well where the file system has
    no links, and of a file within a tar.
    """
    if place_in_tar(file):
        place.write_bytes(read_bytes(file))
        return
    if not copy:
        try:
            # To the file itself: a link to a link would break when the first one is removed.
            place.symlink_to(os.path.relpath(os.path.realpath(file), os.path.realpath(place.parent)))
        except (OSError, NotImplementedError):
            pass
        else:
            return
    shutil.copyfile(file, place)


def in_threads(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """Return what the function gives for each item, in their order; the first exception is raised.

    Threads wait for the disk together, so that a folder on a network is read several times faster.
    """
    blocks = [items[i : i + _BLOCK] for i in range(0, len(items), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [answer for answers in pool.map(lambda block: [*map(function, block)], blocks) for answer in answers]


_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters at least: C:/ is a drive; Path makes // one /


def is_url(text: str | Path) -> bool:
    """Return whether something is named by an address on a network and not by a file."""
    return bool(_URL.match(str(text)))


def refuse_url(text: str | Path, what: str) -> None:
    """Raise a UserError if something that must be a file is named by an address."""
    if is_url(text):
        raise UserError(
            f"{text} is an address, and nothing is downloaded here: fetch {what} yourself and name the file"
        )
