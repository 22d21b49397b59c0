"""What can be said of a call before torch is loaded: data that are not there, a warm-up longer than the run."""

import logging
from pathlib import Path

from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.data.split_names import find_dataset
from boxwright.errors import UserError
from boxwright.terminal import say_once
from boxwright.yolo.settings import RunConfig, ValConfig

_DARKNET_LAYER = b"module_list."  # begins the names of entries of networks from a cfg


def data(config: ValConfig | RunConfig) -> list[str]:
    """Look for the data set; return what is wrong with it, if it was named."""
    try:
        if config.data:
            find_dataset(config.data)
            from boxwright.data.dataset import splits_of  # here: readers load numpy and OpenCV

            splits_of(config.data)
    except UserError as error:
        return [str(error)]
    return []


def training(config: RunConfig) -> list[str]:
    """Look for the data set, and warn of a run that ends in its warm-up."""
    problems = data(config)
    optim, names = config.optim, (config.release, config.optim.release, config.loss.recipe)
    is_current = not any(names) and not config.model.startswith("yolov3") and not config.model.endswith(".cfg")
    is_current = is_current and not names_in_checkpoint(Path(config.weights), _DARKNET_LAYER)
    if problems or not config.data or not is_current or config.batch_size < 1 or config.fine_tune:
        return problems
    from boxwright.data.dataset import count_images
    from boxwright.engine.schedule import Schedule

    try:
        images = count_images(config.data, "train")
    except UserError:  # told where the data are opened, with all else
        return []
    if images:
        steps = -(-images // config.batch_size)
        if note := Schedule(optim, config.epochs, steps, config.batch_size).ends_in_warmup():
            say_once(note, logging.WARNING)
    return []
