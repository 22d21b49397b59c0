"""Our own checkpoint files: tensors and plain values in the form of `torch.save`, written so that none is ever lost.

`torch.load(path, weights_only=True)` reads them. We read them by the closed reader of restricted.py, as any other file.
"""

import errno
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from boxwright.checkpoints.archive import read_archive
from boxwright.data.files import Hidden, whole_file
from boxwright.errors import UserError, reason
from boxwright.terminal import counted

_log = logging.getLogger("boxwright.checkpoints")
FORMAT = "boxwright"
VERSION = 1


def save_checkpoint(path: Path, content: dict[str, Any], *, keep_before: bool = False) -> None:
    """Write a checkpoint in one step: either the new file is there whole, or the old one is untouched.

    It takes its name once it has been read back from the disk.

    Args:
        path: where to; the folder must exist.
        content: tensors, plain values, and dicts, lists and tuples of those.
        keep_before: keep the old file, as `previous` names it.

    Raises:
        TypeError: the content holds something else.
        UserError: it cannot be written (full disk, read-only folder).
    """
    _check_plain(content, "checkpoint")
    kept = f"; the {path.name} of before is kept" if path.exists() else ""
    try:
        with whole_file(path, sync=True, advice=kept) as temporary:
            with temporary.open("wb") as file:
                torch.save({"format": FORMAT, "version": VERSION} | content, file)
            _read_back(temporary)
            if keep_before and path.exists():
                _keep(path)
    except RuntimeError as error:
        # torch hides the system's error behind its own, at any depth; the system's words say what to do.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        why = reason(cause) if cause is not None else str(error).splitlines()[0]
        raise UserError(f"cannot write {path}: {why}{kept}") from error


def previous(path: Path) -> Path:
    """Return where the checkpoint before this one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _keep(path: Path) -> None:
    """Give a checkpoint its name as the previous one, so that there is one at every moment."""
    hidden = Hidden(path)
    try:
        hidden.path.unlink()
        try:
            os.link(path, hidden.path)
        except OSError:  # a file system without links: for a moment only the previous one has a name
            os.replace(path, previous(path))
        else:
            hidden.become(previous(path))
    finally:
        hidden.drop()


def _read_back(path: Path) -> None:
    """Read a new checkpoint from the disk and compare its checksums; raise an OSError if it is not what was written."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # else it would come from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except zipfile.BadZipFile:
            damaged = path.name
    if damaged is not None:
        raise OSError(errno.EIO, "what was written does not read back the same")


def not_finite(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Return the names of entries that hold a number which is not finite."""
    floats = {name: value for name, value in state_dict.items() if value.is_floating_point()}
    if not floats:
        return []
    # The device is waited for once.
    fine = torch.stack([value.isfinite().all() for value in floats.values()]).tolist()
    return [name for name, is_fine in zip(floats, fine, strict=True) if not is_fine]


def warn_not_finite(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Say that weights which were read are not finite."""
    if bad := not_finite(state_dict):
        _log.warning(
            "the weights in %s are not finite: %s of %d, such as %s; what such a network finds means nothing",
            *(path, counted(len(bad), "entry"), len(state_dict), bad[0]),
        )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one of our own checkpoints; tensors are on the CPU.

    Raises:
        UserError: missing, damaged, or not one of ours.
    """
    content = read_archive(path)
    if not is_native(content):
        raise UserError(f"{path} is not a Boxwright checkpoint")
    content = cast(dict[str, Any], content)
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has checkpoint version {content.get('version')!r}; this Boxwright reads version {VERSION}"
        )
    return content


def halved(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store kernels and matrices in half precision, two bytes a number.

    Vectors (biases, norms) and anchors stay as they are: they are few, and half precision would move what it folds into
    or fits. So does an entry with a number beyond its range.
    """
    stored = dict(state_dict)
    for name, value in state_dict.items():
        if value.is_floating_point() and value.dim() > 1 and not name.endswith("anchors"):
            half = value.half()
            stored[name] = half if half.isfinite().all() else value
    return stored


def stripped(content: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a checkpoint what it takes to use its network: the averaged weights, halved; no state of a training."""
    kept = {name: content[name] for name in ("model", "data", "config", "epoch", "metrics") if name in content}
    return kept | {"state_dict": halved(content.get("ema") or content["state_dict"])}


def strip_checkpoint(source: Path, target: Path) -> str:
    """Write the checkpoint of any system without what only its training needs, perhaps in its own place.

    Returns:
        what that saves, in one line.
    """
    content, before = cast(dict[str, Any], read_archive(source)), source.stat().st_size / 1e6
    save_checkpoint(target, stripped(content))
    lost = "; no run can go on from it any more" if "engine" in content and target == source else ""
    return f"{target}: {target.stat().st_size / 1e6:.1f} MB, {source.name} had {before:.1f} MB{lost}"


def is_native(content: object) -> bool:
    return isinstance(content, dict) and cast(dict[Any, Any], content).get("format") == FORMAT


def _check_plain(value: object, where: str) -> None:
    if value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, Tensor):
        return
    if isinstance(value, dict):
        for key, item in cast(dict[Any, Any], value).items():
            _check_plain(key, f"{where} key")
            _check_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, item in enumerate(cast(list[Any], value)):
            _check_plain(item, f"{where}[{i}]")
    else:
        raise TypeError(f"{where} is a {type(value).__name__}: a checkpoint holds tensors and plain values only")
