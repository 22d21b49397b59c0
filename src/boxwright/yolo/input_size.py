"""The size of a network's input: what was asked for, else what the network was trained at. What is chosen is said."""

import logging
from collections.abc import Sequence

from boxwright.data.letterbox import fit_imgsz
from boxwright.yolo.detection import Network

DEFAULT_SIDE = 640  # of published weights, which do not say theirs
_log = logging.getLogger("boxwright.yolo")


def choose_size(asked: Sequence[int], network: Network, name: str, multiple: int = 1) -> tuple[int, int]:
    """Choose height and width of the input, and say so where the user may expect another size.

    Args:
        asked: one side, or height and width; empty: those that the network was trained at.
        network: of a file that takes images of one size only, that size is taken in any case.
        name: of the weights, for messages.
        multiple: sides are rounded up to this.
    """
    fixed, trained = network.input_size, network.trained_size
    height, width = (asked[0], asked[-1]) if asked else trained or (DEFAULT_SIDE, DEFAULT_SIDE)
    if fixed is not None:
        # One side is the longer one of what is asked for.
        if asked and (height, width) != fixed and tuple(asked) != (max(fixed),):
            _log.warning("imgsz %s is not used: %s takes %dx%d pixels only", write_size(asked), name, *fixed[::-1])
        return fixed
    if not asked and trained is None:
        _log.info("imgsz %d: %s does not say the size that it was trained at", DEFAULT_SIDE, name)
    elif not asked:
        _log.info("imgsz %s, which %s was %s", write_size((height, width)), name, network.size_is)
    elif trained is not None and trained != (height, width):
        sizes = write_size(asked), name, network.size_is, write_size(trained)
        _log.warning("imgsz %s, but %s was %s %s (taken without --imgsz)", *sizes)
    fitting = fit_imgsz(height, multiple)  # which warns once of a square
    return fitting, fitting if width == height else fit_imgsz(width, multiple)


def write_size(size: Sequence[int]) -> str:
    """Write a size as --imgsz takes it: one side of a square, else height and width."""
    return str(size[0]) if size[0] == size[-1] else f"{size[0]} {size[-1]}"
