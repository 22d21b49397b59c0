"""The anchors verb: how well anchors fit a data set, and better ones, as a yaml and a plot."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from boxwright.data.dataset import open_dataset
from boxwright.data.files import picture_errors, write_atomically
from boxwright.engine.run_folder import new_run_folder
from boxwright.errors import UserError
from boxwright.terminal import counted
from boxwright.yolo.anchors import TINY_SIDE, AnchorFit, Sizes, anchors_of, fit, in_levels, label_sizes, search
from boxwright.yolo.settings import AnchorsConfig
from boxwright.yolo.verbs.info import open_network
from boxwright.yolo.zoo import load_spec

_PUBLISHED = "yolov5n"  # its anchors are those of all published networks of three levels
_log = logging.getLogger("boxwright.anchors")


@dataclass(frozen=True)
class AnchorReport:
    """What a search found."""

    folder: Path  # where `anchors.yaml` and `anchors.png` are
    anchors: list[list[float]]  # width, height ... in pixels, one list a level, small ones first.
    found: AnchorFit  # how well they fit
    current: AnchorFit | None  # how well those of the model fit; None if it has none yet


def anchors(config: AnchorsConfig) -> AnchorReport:
    """Compare the anchors of a model with those that a search finds for the labels of the train split.

    Raises:
        UserError: there are no labels, or the anchors do not fit the model's levels.
    """
    data, imgsz, anchor_t = config.data, config.imgsz, config.anchor_t
    if config.model:
        network = open_network(config.model)
        name, spec, current = config.model, network.spec, anchors_of(network)
    else:
        name, spec = "published", load_spec(_PUBLISHED)
        current = np.array(spec.anchors, np.float32).reshape(-1, 2)
    count, levels = config.num_anchors or len(current), len(spec.anchors)
    if not config.model and count % levels:
        levels = 1
    in_levels(np.zeros((count, 2), np.float32), levels)  # before the labels are read
    index = open_dataset(data, "train", single_cls=False, compat="faithful")
    if not len(index.boxes):
        raise UserError(f"the train split of {data} has no box at all, so there is nothing to fit anchors to")
    sizes = label_sizes(index, imgsz)
    if count > len(sizes):
        _log.warning("%d anchors for %d boxes: some will fit none that others do not fit as well", count, len(sizes))
    found = search(
        sizes,
        num_anchors=count,
        anchor_t=anchor_t,
        generations=config.generations,
        seed=config.seed,
        verbose=config.verbose,
    )
    folder = new_run_folder(config.project, config.name, config.exist_ok)
    now = None if spec.anchors_to_find else fit(sizes, current, anchor_t)
    report = AnchorReport(folder, in_levels(found, levels), fit(sizes, found, anchor_t), now)
    about = f"{counted(len(sizes), 'box')} of {data} at {imgsz} pixels, side ratio up to {anchor_t:g}"
    rows = [f"  - [{', '.join(f'{side:g}' for side in level)}]\n" for level in report.anchors]
    how = f"{config.generations} generations, seed {config.seed}"
    comment = f"# {' '.join(about.split())}; {how}\n# {_in_words(report.found)}\n"
    write_atomically(folder / "anchors.yaml", f"{comment}anchors:\n" + "".join(rows))
    _say(report, sizes, name, about)
    if not config.noplots:
        own = (Path(name).name, current) if now else None
        with picture_errors():
            from boxwright.yolo.anchor_plot import plot_anchors  # matplotlib is slow to import

            plot_anchors(sizes, found, own, anchor_t, folder / "anchors.png")
    return report


def _say(report: AnchorReport, sizes: Sizes, name: str, about: str) -> None:
    print(about)
    tiny = int((sizes < TINY_SIDE).any(axis=1).sum())
    if tiny:
        print(f"{tiny} of them have a side below {TINY_SIDE:g} pixels: hard to find at this size")
    if report.current is None:
        print(f"{name}: has no anchors yet")
    else:
        print(f"{name}: {_in_words(report.current)}")
    print(f"found: {_in_words(report.found)}")
    for level in report.anchors:
        print("  " + "  ".join(f"{w:g},{h:g}" for w, h in zip(level[::2], level[1::2], strict=True)))
    file = report.folder / "anchors.yaml"
    print(f"written to {file}: the line `anchors` for a model yaml, or as it is: boxwright train --config {file} ...")


def _in_words(found: AnchorFit) -> str:
    return (
        f"best possible recall {found.recall:.4f}, {found.per_label:.2f} anchors a box, fitness {found.fitness:.4f}, "
        f"metric {found.mean_measure:.3f} of all and {found.mean_best:.3f} of the best anchor"
    )
