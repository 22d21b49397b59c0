"""Hyper-parameter files in the flat form that YOLOv5 published (`lr0: 0.01`, `box: 0.05`), and the presets by name.

Source: names and meanings of the keys of the published YOLOv5 files (v1.0 to v7.0).
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from boxwright.data.files import found_below
from boxwright.errors import UserError
from boxwright.settings.base import Files, Frozen
from boxwright.settings.flags import OLD_NAMES, did_you_mean, flags_of
from boxwright.settings.load import Setting, load, read_yaml_settings
from boxwright.yolo.settings import RunConfig

C = TypeVar("C", bound=Frozen)
_KEYS = """
    lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr box cls cls_pw obj obj_pw anchor_t iou_t
    fl_gamma label_smoothing anchors hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr mosaic
    mosaic9 mixup copy_paste
""".split()
_PRESET_OF = {"finetune": "VOC", "finetune_objects365": "Objects365"}  # their names up to v6.0
_OTHER_PRESETS = {
    "scratch": "that of v6.0 is scratch-low with --optim.lrf 0.1, those of v4.0 and v5.0 with --optim.lrf 0.2",
    "scratch-p6": "take scratch-low, or name your file",
    "no-augmentation": "take scratch-low with --augment.mosaic 0 --augment.fliplr 0 and the like",
}
_OTHER_KEYS = {  # of files for other trainers
    **dict.fromkeys(("paste_in", "loss_ota"), "it is of YOLOv7, and not here: leave the line out"),
    **dict.fromkeys(("dfl", "pose", "kobj", "close_mosaic"), "it is of YOLOv8, and not here: leave the line out"),
}
_SETTING_OF_NAME = {flag.setting.rpartition(".")[2]: flag.setting for flag in flags_of(RunConfig)}
SETTING_OF_KEY = {key: _SETTING_OF_NAME[OLD_NAMES.get(key, key)] for key in (*_KEYS, *OLD_NAMES)}

_KEYS_OF_FILES = SETTING_OF_KEY | {"optimizer": "optim.optimizer"}  # what runs of v1.0 wrote


def load_run(kind: type[C], settings: Mapping[str, Any] | None = None, *, hyp: str = "", config: str = "") -> C:
    """Build the settings of a training run, as `settings.load.load` does.

    Args:
        kind: class of the settings.
        settings: what the caller sets; strongest.
        hyp: a hyper-parameter file in the published flat form, or the name of a preset; weakest.
        config: a yaml of settings, or a run folder.
    """
    return load(kind, settings, config=config, below=read_hyp(hyp) if hyp else None)


def load_with_files(kind: type[C], given: Mapping[str, Setting], files: Files) -> C:
    """Build the settings of a verb from what is given and its files; a run yaml also makes data and run folder."""
    run, hyp = getattr(files, "run", ""), getattr(files, "hyp", "")
    if not run:
        return load_run(kind, given, hyp=hyp, config=files.config)
    if files.config:
        raise UserError("--config does not go with --run: the run yaml and flags hold the settings")
    from boxwright.yolo.run_yaml import prediction_settings, training_settings

    return cast(C, training_settings(run, given, hyp=hyp) if kind is RunConfig else prediction_settings(run, given))


def preset_names() -> list[str]:
    """List the presets that `--hyp` knows by name, without `hyp.` and `.yaml`."""
    files = (file.name for file in (resources.files("boxwright.yolo") / "presets").iterdir())
    return sorted(name.removeprefix("hyp.").removesuffix(".yaml") for name in files if name.endswith(".yaml"))


def find_hyp(name: str) -> Path:
    """Find the file of a path or of a preset name: `my.yaml`, `scratch-low`, `hyp.scratch-low.yaml`.

    Raises:
        UserError: neither; names the place looked at and the presets.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    presets = preset_names()
    # As in published commands, with the folder that the releases kept them in: data/hyps/hyp.scratch-low.yaml.
    preset = path.name.removeprefix("hyp.").removesuffix(".yaml")
    preset = _PRESET_OF.get(preset, preset)
    if preset in presets:
        return Path(str(resources.files("boxwright.yolo") / "presets" / f"hyp.{preset}.yaml"))
    known = f"not a file ({path.absolute()}), nor a preset ({', '.join(presets)})"
    hint = f"; {_OTHER_PRESETS[preset]}" if preset in _OTHER_PRESETS else did_you_mean(preset, presets)
    hint = found_below(name) or hint
    raise UserError(f"no hyper-parameters {name}: {known}{hint}")


def read_hyp(name: str) -> dict[str, Setting]:
    """Read a flat hyper-parameter file as settings by dotted path.

    Raises:
        UserError: no such file or preset; not yaml; lists every key that no published file has, with file and line.
    """
    path = find_hyp(name)
    settings: dict[str, Setting] = {}
    problems: list[str] = []
    for key, setting in read_yaml_settings(path).items():
        if key not in _KEYS_OF_FILES:
            hint = (
                f"; {_OTHER_KEYS[key]}" if key in _OTHER_KEYS else did_you_mean(key.rpartition(".")[2], SETTING_OF_KEY)
            )
            problems.append(f"{setting.origin}: {key} is not a hyper-parameter{hint}")
            continue
        target = _KEYS_OF_FILES[key]
        if target in settings:
            problems.append(f"{setting.origin}: {key} sets {target} a second time (first at {settings[target].origin})")
        settings[target] = setting
    if problems:
        raise UserError("\n  ".join(["the hyper-parameter file has errors:", *problems]))
    return settings
