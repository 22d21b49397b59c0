"""Tar shards: images and YOLO labels of a data set in tar files, laid out as `webdataset` has them.

Members of one key are one sample; the key is the name up to the first dot behind the last slash: `a/12.jpg` with
`a/12.txt`. Reading goes over the headers of each tar once; from then on an image is read at its offset, so nothing is
unpacked, and the order of an epoch is that of images that are files (docs/decisions/0019-tar-shards.md).
What is not here: writing shards (convert.py), reading at an address (reading.py).

Source: the published format of the package `webdataset` (BSD-3-Clause), whose rules for keys are restated here.
"""

import os
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path

from boxwright.data.cache import digest, state
from boxwright.data.data_yaml import find_source
from boxwright.data.images import IMAGE_SUFFIXES
from boxwright.data.index import DataIndex, Problem
from boxwright.data.yolo_txt import read_yolo
from boxwright.errors import UserError
from boxwright.reading import address_in_tar, open_file, parsing
from boxwright.settings.base import Compat
from boxwright.terminal import one_line, say_once

_MOST_SHARDS = 100_000  # of one pattern
_MOST_MEMBERS = 1_000_000  # of one shard: 1 GB of files without content
_LONGEST_NAME = 1024  # characters
_LARGEST_HEADER = 1 << 20  # bytes that the headers of one member may have
_LARGEST_END = 1 << 20  # bytes of zeros behind the last member
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")
_KEY = re.compile(r"((?:.*/|)[^.]+)\.[^/]*", re.DOTALL)
_NOT_SAMPLES = re.compile(r"__[^/]*__($|/)")  # names of notes about the shard

Part = tuple[int, int]  # offset and size of a member


def expand_braces(pattern: str) -> list[str]:
    """Return the names that `x-{000..012}.tar` or `{a,b}.tar` stand for, in order; a name without braces is its own.

    Raises:
        UserError: more than `_MOST_SHARDS`, or other braces.
    """
    choices: list[range | list[str]] = []
    count, widths = 1, list[int]()
    for inside in _BRACES.findall(pattern):
        if bounds := _RANGE.fullmatch(inside):
            first, last = int(bounds[1]), int(bounds[2])
            step = 1 if last >= first else -1
            choices.append(range(first, last + step, step))
            is_padded = any(text.startswith("0") and len(text) > 1 for text in bounds.groups())
            widths.append(max(map(len, bounds.groups())) if is_padded else 0)
        elif "," in inside:
            choices.append(inside.split(","))
            widths.append(0)
        else:
            raise UserError(f"{pattern}: braces hold a range {{000..012}} or names {{a,b}}, not {{{inside}}}")
        count *= len(choices[-1])
        if count > _MOST_SHARDS:
            raise UserError(f"{pattern} stands for more than {_MOST_SHARDS:,} shards")
    texts = _BRACES.split(pattern)[::2]
    if any(brace in text for text in texts for brace in "{}"):
        raise UserError(f"{pattern}: a brace is not closed, or is within another")
    names = texts[:1]
    for choice, width, text in zip(choices, widths, texts[1:], strict=True):
        names = [f"{name}{str(value).zfill(width)}{text}" for name in names for value in choice]
    return names


def find_shards(sources: Sequence[str], roots: Sequence[Path], named_in: Path) -> list[Path]:
    """Find the shards that a data yaml names, in the order of their names there, each once.

    Raises:
        UserError: one is not there; the message lists every place that was looked at.
    """
    found: dict[Path, None] = {}
    for source in sources:
        first, *others = expand_braces(source)
        place = find_source(first, roots, named_in)
        found[place] = None
        root = os.fspath(place).removesuffix(first)  # where the first one is, the others are looked for
        for name in others:
            beside = Path(root + name)
            found[beside if beside.exists() else find_source(name, roots, named_in)] = None
    return list(found)


def digest_shards(shards: Sequence[Path], names: Sequence[str], compat: Compat) -> str:
    """Return the digest of what an index of shards depends on; of the shards size and time of change."""
    states = [state(shard).decode() for shard in shards]
    return digest(["shards", list(names), compat, states], shards, [])


class _Headers:
    """A tar that is read header by header, of which none may be as large as memory."""

    def __init__(self, file: BufferedReader) -> None:
        self.seek, self.tell = file.seek, file.tell
        self._read = file.read
        self.left = _LARGEST_HEADER

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError("a header of a member is too large")
        self.left -= size
        return self._read(size)


def members_of(shard: Path) -> dict[str, Part]:
    """Return offset and size of each file of a tar by its name, in their order.

    Raises:
        UserError: it is compressed, damaged or cut off, or holds what no data set needs: links, devices, sparse files,
            absolute names, names with `..`, a name twice.
    """
    found: dict[str, Part] = {}
    with parsing(shard, "tar"), open_file(shard) as file:
        length = os.fstat(file.fileno()).st_size
        start = file.read(6)
        if kind := next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), ""):
            raise UserError(f"{shard} is compressed ({kind}): images are read at their offsets; unpack it to a tar")
        file.seek(0)
        headers, at = _Headers(file), -1
        with tarfile.open(fileobj=headers, mode="r:") as tar:  # pyright: ignore  # what it calls is there
            while (member := tar.next()) is not None:
                tar.members = []  # else it keeps them all
                headers.left = _LARGEST_HEADER
                if why := _reason_to_refuse(member, found, length):
                    raise UserError(f"{shard}: {one_line(member.name[:_LONGEST_NAME])} {why}")
                if tar.offset <= at or len(found) >= _MOST_MEMBERS:
                    raise ValueError(f"it has more than {_MOST_MEMBERS:,} members, or one that has no end")
                at = tar.offset
                if not member.isdir():
                    found[member.name] = member.offset_data, member.size
            file.seek(tar.offset)
        # tarfile takes what is no header for the end.
        block, end = file.read(tarfile.BLOCKSIZE), file.read(_LARGEST_END)
        if not block:
            raise UserError(f"{shard} is cut off: it has no end mark")
        if block.strip(b"\0") or end.strip(b"\0") or file.read(1):
            raise UserError(f"{shard} is damaged: no member begins at byte {tar.offset:,}, and it does not end there")
    return found


def _reason_to_refuse(member: tarfile.TarInfo, before: dict[str, Part], length: int) -> str:
    """Return why a tar that has such a member is not read; empty: it may be."""
    name = member.name
    if member.issparse() or any(key.startswith("GNU.sparse") for key in member.pax_headers):
        return "is a sparse file, whose bytes do not lie in the tar as they are; write it as it is"
    if not (member.isreg() or member.isdir()):
        kind = _KINDS.get(member.type, f"of type {member.type.decode(errors='replace')!r}")
        return f"is {kind}; a shard holds files only"
    if name.startswith("/") or ".." in name.split("/"):
        return "is a name outside of the shard; names are relative, without `..`"
    if not name or len(name) > _LONGEST_NAME or "\0" in name:
        return f"is no name for a file of a data set (empty, a zero in it, or above {_LONGEST_NAME:,} characters)"
    if name in before:
        return "is there twice; which one is meant cannot be told"
    if member.size < 0 or member.offset_data + member.size > length:
        return f"has {member.size:,} bytes by its header, but the shard ends before: it is cut off"
    return ""


def samples_of(shard: Path) -> tuple[list[Path], list[Path], list[str], Counter[str]]:
    """Find the images of a shard and their labels.

    An image goes with the label of its name; the label of `12.seg.png` would be `12.seg.txt`. Of the images of one key,
    those without a label are masks and the like if another has one; else only `12.jpg` is taken.

    Returns:
        addresses of the images in their order, and of their labels, which may be missing; names of labels without an
        image; and how many members of which suffix are not read.
    """
    members = {
        name: part
        for name, part in members_of(shard).items()
        if not name.rpartition("/")[2].startswith(".") and not _NOT_SAMPLES.match(name)
    }
    address = {name: address_in_tar(shard, *part, name) for name, part in members.items()}
    labels: dict[str, str] = {}
    by_key: dict[str, list[tuple[str, str]]] = {}  # images, and their names without suffix
    unread = Counter[str]()
    for name in members:
        stem, suffix = os.path.splitext(name)
        key = _KEY.fullmatch(name)
        if suffix.lower() == ".txt":
            labels[stem] = name
        elif key and suffix.lower() in IMAGE_SUFFIXES:
            by_key.setdefault(key[1], []).append((name, stem))
        else:
            unread[suffix.lower() or name] += 1
    images: list[Path] = []
    files: list[Path] = []
    for key, found in by_key.items():
        taken = [image for image in found if image[1] in labels] or [image for image in found if image[1] == key]
        taken = taken or found
        others = (name for name, stem in found if (name, stem) not in taken)
        unread.update(f"{os.path.splitext(name)[1].lower()} beside an image" for name in others)
        for name, stem in taken:
            images.append(address[name])
            files.append(address[labels[stem]] if stem in labels else shard / f"{stem}.txt")
    owned = set(files)
    orphans = [os.fspath(address[name]) for name in labels.values() if address[name] not in owned]
    return images, files, orphans, unread


def list_shard_images(pattern: str) -> list[Path]:
    """List the addresses of all images in the shards of a pattern.

    Raises:
        UserError: a shard is not there, or cannot be read; or none has an image.
    """
    images = [image for shard in expand_braces(pattern) for image in samples_of(Path(shard))[0]]
    if not images:
        raise UserError(f"{pattern} holds no image")
    return images


def read_shards(
    shards: Sequence[Path], names: Sequence[str], *, compat: Compat = "faithful", decode: bool = False
) -> DataIndex:
    """Read every header and label of a split of tar shards; see `read_yolo`.

    Raises:
        UserError: a shard cannot be read, or holds what it may not; or there is no image.
    """
    images: list[Path] = []
    files: list[Path] = []
    problems: list[Problem] = []
    unread = Counter[str]()
    for shard in shards:
        found = samples_of(shard)
        images += found[0]
        files += found[1]
        text = "there is no image for this label file"
        problems += [Problem("label without image", Path(name), 0, text) for name in found[2]]
        unread += found[3]
    if unread:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in unread.most_common(5))
        say_once(f"{shards[0].parent}: members of shards that are not read: {kinds}")
    if not images:
        raise UserError(f"{shards[0]}{' and the other shards' if len(shards) > 1 else ''}: there is no image in it")
    return read_yolo(images, names, compat=compat, decode=decode, files=files, problems=problems)
