"""A stopped run of the published YOLOv5, as settings of one that goes on from its `last.pt`.

Source: docs/spec/yolov5.md, B6: a run writes `opt.yaml` (its flags) and `hyp.yaml` (its hyper-parameters) beside
`weights/`, and resumes with them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.errors import UserError
from boxwright.settings.load import Setting, read_yaml_settings
from boxwright.yolo.hyp import read_hyp

_log = logging.getLogger("boxwright.train")
_CLASSES = b"models.yolo"  # of the networks in published files
_FLAGS = {  # published flag -> setting; what depends on the machine or names a folder is not taken
    "epochs": "epochs",
    "batch_size": "batch_size",
    "imgsz": "imgsz",
    "img_size": "imgsz",
    "data": "data",
    "optimizer": "optim.optimizer",
    "cos_lr": "optim.cos_lr",
    "label_smoothing": "loss.label_smoothing",
    "workers": "workers",
    **{
        name: name
        for name in (
            "rect noval nosave noautoanchor multi_scale single_cls image_weights quad sync_bn patience freeze "
            "save_period seed"
        ).split()
    },
}


def settings_of_run(file: str, given: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings that go on with a published run, those given on top; empty: the file is not of one.

    Args:
        file: its last.pt.
        given: settings of the command line.

    Raises:
        UserError: it is not readable, or has no optimizer any more.
    """
    path = Path(file).expanduser()
    if not file or not names_in_checkpoint(path, _CLASSES):
        return {}
    from boxwright.yolo.weights import read_weights  # imports torch

    if not read_weights(path).epochs_trained:
        raise UserError(
            f"{path} is of a training that has ended, which left it no optimizer: there is nothing to resume; start a "
            f"new run from it: --weights {path}"
        )
    folder = path.absolute().parent.parent
    options, hyper_parameters = folder / "opt.yaml", folder / "hyp.yaml"
    found: dict[str, Setting] = {}
    if hyper_parameters.is_file():
        found |= read_hyp(str(hyper_parameters))
    if options.is_file():
        read = read_yaml_settings(options)
        found |= {_FLAGS[name]: setting for name, setting in read.items() if name in _FLAGS and setting.value != ""}
        if "adam" in read:  # up to v6.1
            found["optim.optimizer"] = Setting("Adam" if read["adam"].value else "SGD", read["adam"].origin)
        if "linear_lr" in read:  # up to v6.0 the other curve was the default
            found["optim.cos_lr"] = Setting(not read["linear_lr"].value, read["linear_lr"].origin)
    missing = [one.name for one in (options, hyper_parameters) if not one.is_file()]
    if missing:
        _log.warning(
            "%s has no %s beside its weights folder: what the command line does not say has its default",
            *(folder, " and no ".join(missing)),
        )
    origin = given["resume"].origin if "resume" in given else "--resume"
    own = {"weights": Setting(str(path), origin), "fine_tune": Setting(True, origin)}
    return found | own | dict(given)
