"""Divide the images of a data set anew into train, val and test, so that each has its share of every class.

List files and a data yaml are written; no image is moved. Labels that do not lie beside their images, where lists
would find them, are written anew: those of COCO json as COCO json, others as YOLO labels.

Source: iterative stratification: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data",
ECML PKDD 2011, algorithm 1. Deviations: a list never takes more than its share of all images, so that sizes are those
asked for; images without any class count as a class of their own; chance is only in the order of the images.

Legend: N images, C classes, S lists.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from boxwright.data.check import content_groups
from boxwright.data.convert import OUTSIDE, count_lost, say_set_aside, write_data_yaml, write_splits
from boxwright.data.dataset import describe, read_split, say_what_is_left_out
from boxwright.data.files import require_free, whole_folder
from boxwright.data.index import DataIndex, Record, join_records
from boxwright.data.split_names import SPLITS, Form, Split
from boxwright.errors import UserError
from boxwright.ops.arrays import Bools, Ints
from boxwright.settings.base import Compat

_log = logging.getLogger("boxwright.data")


def split_data(
    data: str | Path,
    target: str | Path = "",
    *,
    shares: Sequence[float] = (0.9, 0.1, 0.0),
    seed: int = 0,
    compat: Compat = "faithful",
) -> tuple[Path, dict[Split, list[Path]], tuple[int, int]]:
    """Divide labelled images by class into lists, the same ones for the same seed.

    Images of the same content go to the same list. Images that training leaves out are in none, and said.

    Args:
        data: a data set of any format; its splits are thrown together.
        target: a new or empty folder for `train.txt`, `val.txt`, `test.txt` and `data.yaml`; empty: `NAME_split`
            beside the data. Images below the folder that it lies in are listed relative to it.
        shares: of train, val and perhaps test; a list without a share is not written.
        seed: of the draw.
        compat: "fixed" mends two defects of the published reading of labels, see yolo_txt.

    Returns:
        the folder, the images of each list, and how many images and boxes of the source are lost: in no list, or not
        in labels that are written anew.

    Raises:
        UserError: no labelled images, shares that do not sum to 1, fewer images than lists, or the target is taken.
    """
    if not 2 <= len(shares) <= len(SPLITS):
        raise UserError(f"shares are two or three numbers, of train, val and perhaps test, not {len(shares)}")
    shares = (*shares, 0.0)[: len(SPLITS)]
    list_sizes(len(shares), shares)  # so that a wrong share is said before anything is read
    source = Path(data).expanduser().absolute()
    stem = source.name if source.is_dir() else source.stem
    folder = Path(target).expanduser().absolute() if str(target) else source.with_name(f"{stem}_split")
    require_free(folder)
    form, index, num_lost = _read(data, compat)
    images = index.paths
    groups = np.array(content_groups(images), dtype=np.int64)
    sizes = list_sizes(len(index), shares)
    firsts, members, weights = np.unique(groups, return_inverse=True, return_counts=True)
    if len(firsts) < sum(size > 0 for size in sizes):
        raise UserError(f"too few different images for {sum(size > 0 for size in sizes)} lists: {len(firsts)}")
    present = np.zeros((len(firsts), index.num_classes), dtype=np.bool_)
    present[members.repeat(np.diff(index.box_offsets)), index.classes] = True
    chosen = stratify(present, weights.astype(np.int64), sizes, seed)[members]  # number of the list of each image
    lists: dict[Split, list[Path]] = {}
    for number, split in enumerate(SPLITS):
        if shares[number] > 0:
            lists[split] = [image for image, of in zip(images, chosen.tolist(), strict=True) if of == number]
    with whole_folder(folder) as made:
        if form != "yolo":
            records = index.records()
            ids, names = index.category_ids, index.names
            indices = {
                split: DataIndex.from_records(
                    [records[i] for i in np.flatnonzero(chosen == number)], names, category_ids=ids
                )
                for number, split in enumerate(SPLITS)
                if split in lists
            }
            lost = write_splits(indices, made, "coco" if form == "coco" else "yolo")
            return folder, lists, (num_lost[0], num_lost[1] + lost[OUTSIDE])
        for split, members in lists.items():
            # Relative where an image lies beside the folder, so that both can be moved together.
            lines = [
                f"./../{image.relative_to(folder.parent)}\n" if image.is_relative_to(folder.parent) else f"{image}\n"
                for image in members
            ]
            (made / f"{split}.txt").write_text("".join(lines), encoding="utf-8")
        write_data_yaml(made / "data.yaml", {split: f"{split}.txt" for split in lists}, index.names)
    return folder, lists, (num_lost[0], 0)  # label files stay what they are


def _read(data: str | Path, compat: Compat) -> tuple[Form, DataIndex, tuple[int, int]]:
    """Read all splits together, each image once; count what is lost, and name splits that cannot be opened."""
    described = describe(data)
    indices: list[DataIndex] = []
    errors: list[UserError] = []
    for split in described.splits:
        try:
            indices.append(index := read_split(data, split, compat=compat))
        except UserError as error:
            errors.append(error)
            continue
        say_what_is_left_out(index, split)
        if described.form != "yolo":
            say_set_aside(index, split)
    if not any(map(len, indices)):
        raise errors[0] if errors else UserError(f"{data} has no usable image")
    for error in errors:
        _log.warning("left out: %s", error)
    records: dict[Path, Record] = {}
    for record in (record for index in indices for record in index.records()):
        records[record.path] = join_records(records[record.path], record) if record.path in records else record
    ids = [record.image_id for record in records.values()]
    if len(set(ids)) < len(ids):  # several files number their images from the beginning
        records = {path: replace(record, image_id=-1) for path, record in records.items()}
    first = indices[0]
    index = DataIndex.from_records([*records.values()], first.names, category_ids=first.category_ids)
    return described.form, index, count_lost([problem for part in indices for problem in part.problems])


def list_sizes(num_images: int, shares: Sequence[float]) -> list[int]:
    """Return whole numbers of images by largest remainder; a list with a share has at least one.

    Raises:
        UserError: shares are negative or do not sum to 1, or there are fewer images than lists.
    """
    if any(not share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"shares are not negative and sum to 1, these are {' '.join(f'{share:g}' for share in shares)}")
    wanted = [share > 0 for share in shares]
    if num_images < sum(wanted):
        raise UserError(f"too few images for {sum(wanted)} lists: {num_images}")
    exact = [num_images * share for share in shares]
    sizes = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(shares)), key=lambda s: sizes[s] - exact[s])
    for s in by_remainder[: num_images - sum(sizes)]:
        sizes[s] += 1
    for s in range(len(sizes)):
        if wanted[s] and not sizes[s]:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[s] = 1
    return sizes


def stratify(present: Bools, weights: Ints, sizes: Sequence[int], seed: int) -> Ints:
    """Choose a list for each entry.

    Args:
        present: (N, C) which classes an entry has.
        weights: (N,) images that an entry stands for.
        sizes: (S,) images of each list; their sum is that of the weights.
        seed: of the order in which equal entries are looked at.

    Returns:
        (N,) number of the list of each entry. A list is exceeded only by an entry of several images that fits nowhere.
    """
    present = np.concatenate((present, ~present.any(axis=1, keepdims=True)), axis=1)
    counts = (present * weights[:, None]).sum(axis=0)  # images of each class that wait
    room = np.array(sizes, dtype=np.int64)
    desired = np.outer(room / max(room.sum(), 1), counts)  # (S, C) images of each class that each list lacks
    order = np.random.default_rng(seed).permutation(len(present))
    chosen = np.full(len(present), -1, dtype=np.int64)
    while (waiting := np.flatnonzero(counts > 0)).size:
        # The rarest class first: a frequent one can still be balanced by the many entries that come later.
        rarest = waiting[counts[waiting].argmin()]
        for entry in order[present[order, rarest] & (chosen[order] < 0)].tolist():
            # The list that lacks most of the class, of those with room for it; among equals, that with most room.
            fitting = np.flatnonzero(room >= weights[entry])
            by_need = np.lexsort((-room[fitting], -desired[fitting, rarest]))
            target = int(fitting[by_need[0]]) if fitting.size else int(room.argmax())
            chosen[entry] = target
            room[target] -= weights[entry]
            desired[target] -= present[entry] * weights[entry]
            counts -= present[entry] * weights[entry]
    return chosen
