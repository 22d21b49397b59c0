"""The door of every reader: regular files only, yaml within bounds, and any error of a parser as one sentence.

A file within a tar has an address, `x.tar/@OFFSET+SIZE/NAME`, which is opened like a file: it is never unpacked. No
file on a disk can be called so, since `x.tar` is none of the folders. See data/shards.py.

A reader is `@reads("xml")`, or has `with parsing(file, "xml"):` around what it does with a file of somebody else.
Memory that ran out is no mistake of the file and passes.
"""

import codecs
import os
import re
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import yaml
from yaml.composer import ComposerError

from boxwright.errors import UserError, is_out_of_memory

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

P = ParamSpec("P")
Answer = TypeVar("Answer")
F = TypeVar("F", bound=str | Path)


@contextmanager
def parsing(file: str | Path, what: str = "") -> Generator[None]:
    """Raise a UserError with file, line and reason in place of any error of a parser.

    Args:
        file: what is read, for the message.
        what: what it should be: "yaml", "COCO json".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise UserError(_sentence(file, what, error)) from error


def reads(what: str) -> Callable[[Callable[Concatenate[F, P], Answer]], Callable[Concatenate[F, P], Answer]]:
    """Guard a reader whose first argument is the file; see `parsing`."""

    def guarded(reader: Callable[Concatenate[F, P], Answer]) -> Callable[Concatenate[F, P], Answer]:
        @wraps(reader)
        def read(file: F, *args: P.args, **named: P.kwargs) -> Answer:
            with parsing(file, what):
                return reader(file, *args, **named)

        return read

    return guarded


def _sentence(file: str | Path, what: str, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{error.object[error.start]:02x} in line {line}"
        return f"cannot read {file}: not {error.encoding.upper()} text ({byte})"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read {file}: {error.strerror.lower()}"
    valid = f"{'a ' if ' ' in what else ''}valid {what}" if what else "readable"
    return f"{file}{_line(error)}: not {valid}: {why(error)}"


def _line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        return f":{mark.line + 1}" if mark else ""
    line = 0 if isinstance(error, SyntaxError) else getattr(error, "lineno", 0)
    return f":{line}" if line else ""


def why(error: Exception) -> str:
    """Return the reason of an error of a parser, as one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]!r}" if error.args else "an entry is missing"
    text = str(getattr(error, "problem", None) or getattr(error, "msg", None) or error)
    if "Traceback" in text:  # of TorchScript
        text = text.strip().splitlines()[-1]
    if "integer string conversion" in text:
        return "a number has too many digits"
    return " ".join(text.split()) or type(error).__name__


class TooLargeError(UserError):
    """A file is larger than files of its kind can be."""


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


_ADDRESS = re.compile(r"(.+\.tar)/@(\d{1,18})\+(\d{1,18})/.+", re.DOTALL | re.IGNORECASE)


def address_in_tar(tar: Path, offset: int, size: int, name: str) -> Path:
    """Return the address of a file within a tar: where its bytes begin, how many they are, what it is called."""
    return tar / f"@{offset}+{size}" / name


def place_in_tar(file: str | Path) -> tuple[Path, int, int] | None:
    """Return the tar, offset and size that an address stands for; None for a file by itself."""
    text = os.fspath(file)
    if "/@" not in text or (match := _ADDRESS.fullmatch(text)) is None:
        return None
    return Path(match[1]), int(match[2]), int(match[3])


class _Part(RawIOBase):
    """A part of an open file, as a file."""

    def __init__(self, file: BufferedReader, offset: int, size: int) -> None:
        self._file, self._offset, self._size = file, offset, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence], 0)
        return self._at

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer).cast("B")
        left = max(self._size - self._at, 0)
        count = os.preadv(self._file.fileno(), [view[:left]], self._offset + self._at)
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def open_file(file: str | Path) -> BufferedReader:
    """Open a file that is a file, or is within a tar: a pipe or a device has no end, or waits for one.

    Raises:
        UserError: it is none.
        OSError: it cannot be opened.
    """
    if place := place_in_tar(file):
        tar, offset, size = place
        whole = open_file(tar)
        if offset + size > os.fstat(whole.fileno()).st_size:
            whole.close()
            raise UserError(f"cannot read {file}: {tar.name} is shorter than it was when it was indexed")
        return BufferedReader(_Part(whole, offset, size))
    # Not blocking, or a pipe without a writer would be waited for here.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    stream = open(os.open(file, flags), "rb")  # noqa: SIM115, the caller closes it
    mode = os.fstat(stream.fileno()).st_mode
    if not stat.S_ISREG(mode):
        stream.close()
        raise UserError(f"cannot read {file}: it is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a file")
    return stream


def read_bytes(file: str | Path, most: int = 0, *, first: int = -1) -> bytes:
    """Read a file, see `open_file`.

    Args:
        file: where it is.
        most: bytes that such a file can have; 0: any number.
        first: read no more than these.

    Raises:
        UserError: it cannot be read, is no file, or is larger.
    """
    with parsing(file), open_file(file) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        if most and size > most:
            raise TooLargeError(f"cannot read {file}: it has {size:,} bytes, such a file at most {most:,}")
        return stream.read(size if first < 0 else first)


def is_utf16(content: bytes) -> bool:
    """Tell whether text begins with the mark of UTF-16, as Windows writes it."""
    return content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def decoded(content: bytes, errors: str = "strict") -> str:
    """Decode UTF-8, or UTF-16 with its mark; the mark is left out."""
    return content.decode("utf-16" if is_utf16(content) else "utf-8-sig", errors)


def read_text(file: str | Path, most: int = 0) -> str:
    """Read a text file in UTF-8, or in UTF-16 with its mark; see `read_bytes`.

    Raises:
        UserError: it cannot be read, is larger, or is in another encoding.
    """
    content = read_bytes(file, most)
    with parsing(file):
        return decoded(content).replace("\r\n", "\n").replace("\r", "\n")


_LARGEST_YAML = 4 << 20  # bytes: a list of 50,000 image files; larger ones take PyYAML minutes
_MOST_NODES = 250_000
_DEEPEST = 50
_EXPANSION = 10  # values that aliases may stand for, per byte of the file; without aliases it is below 1
_MOST_DIGITS = 18  # of numbers that fit 64 bits
_PLAIN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


class BoundedLoader(yaml.SafeLoader):
    """Reads plain values whose number follows from the size of the text, however its aliases refer to each other.

    Dates, and numbers that no setting or class can be, stay the text that they are.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012, as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: made
        for tag, made in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _PLAIN_TAGS
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._most = _EXPANSION * len(text) + 1000
        self._depth = 0
        self._measured: dict[int, tuple[int, int]] = {}  # by the id of a node: values that it stands for, levels in it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ComposerError(None, None, f"it is nested deeper than {_DEEPEST} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None or (is_alias and id(node) in self._measured):
            return node
        if is_alias:
            raise ComposerError(None, None, "a value contains itself", mark)
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        size = 1 + sum(self._measured[id(part)][0] for part in below)
        levels = 1 + max((self._measured[id(part)][1] for part in below), default=0)
        self._measured[id(node)] = size, levels
        if size > self._most or levels > _DEEPEST or len(self._measured) > _MOST_NODES:
            text = "its aliases stand for more values than a file of this size can hold"
            if len(self._measured) > _MOST_NODES:
                text = f"it holds more than {_MOST_NODES:,} values"
            raise ComposerError(None, None, text, mark)
        return node


def _int_or_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int | str:
    return node.value if len(node.value) > _MOST_DIGITS else loader.construct_yaml_int(node)


BoundedLoader.yaml_constructors["tag:yaml.org,2002:int"] = _int_or_text


@contextmanager
def yaml_nodes(text: str, file: str | Path) -> Generator[tuple[BoundedLoader, yaml.Node | None]]:
    """Parse a yaml document; within the block the loader makes values of its nodes, which know their lines.

    Raises:
        UserError: it is not yaml, or stands for more than a file of its size can; also for any error of the block.
    """
    with parsing(file, "yaml"):
        if len(text) > _LARGEST_YAML:
            raise UserError(
                f"cannot read {file}: a yaml of {len(text):,} characters; at most {_LARGEST_YAML:,} are read"
            )
        loader = BoundedLoader(text)
        try:
            yield loader, loader.get_single_node()
        finally:
            loader.dispose()


def load_yaml(text: str, file: str | Path) -> Any:
    """Read a yaml document as plain values; `file` is for messages.

    Raises:
        UserError: see `yaml_nodes`.
    """
    with yaml_nodes(text, file) as (loader, root):
        return None if root is None else loader.construct_document(root)
