"""Flags: YOLOv5's names and aliases, dotted paths, switches, and the answer to a flag that is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from boxwright.centerfusion.settings import FusionConfig, FusionPredictConfig, FusionValConfig
from boxwright.cli import fusion_predict, fusion_train, fusion_val, predict, train, val
from boxwright.cli.flags import YOLOV5_FLAGS, Parser, origins
from boxwright.errors import UserError
from boxwright.settings.base import Frozen
from boxwright.settings.load import load, setting_names
from boxwright.yolo.settings import PredictConfig, RunConfig, ValConfig

TABLES = {
    "train": (train, RunConfig),
    "val": (val, ValConfig),
    "predict": (predict, PredictConfig),
    "train fusion": (fusion_train, FusionConfig),
    "val fusion": (fusion_val, FusionValConfig),
    "predict fusion": (fusion_predict, FusionPredictConfig),
}


def settings(*argv: str) -> RunConfig:
    given = train.parser().parse_strictly(argv)
    return load(RunConfig, origins(given, *train.GROUPS.values()), hyp=given["hyp"], config=given["config"])


@pytest.mark.parametrize(
    ("argv", "setting", "value"),
    [
        ("--img 320", "imgsz", 320),
        ("--imgsz 320", "imgsz", 320),
        ("--img-size=320", "imgsz", 320),
        ("--batch 4", "batch_size", 4),
        ("--batch-size 4", "batch_size", 4),
        ("--cfg yolov5s.yaml", "model", "yolov5s.yaml"),
        ("--model yolov5s", "model", "yolov5s"),
        ("--weights ", "weights", ""),
        ("--cache", "cache", "ram"),
        ("--cache disk", "cache", "disk"),
        ("--freeze 10", "freeze", (10,)),
        ("--freeze 0 1 2", "freeze", (0, 1, 2)),
        ("--rect", "rect", True),
        ("--rect=false", "rect", False),
        ("--cos-lr", "optim.cos_lr", True),
        ("--optimizer AdamW", "optim.optimizer", "AdamW"),
        ("--label-smoothing 0.1", "loss.label_smoothing", 0.1),
        ("--optim.momentum 0.9", "optim.momentum", 0.9),
        ("--loss.box=0.1", "loss.box", 0.1),
        ("--optim.lr0 1e-5", "optim.lr0", 1e-5),
        ("--save-period -1", "save_period", -1),
        ("--patience 0", "patience", 0),
        ("--name 2024", "name", "2024"),
    ],
)
def test_flags_of_train(argv: str, setting: str, value: object) -> None:
    found: Any = settings(*argv.split(" "))
    for part in setting.split("."):
        found = getattr(found, part)
    assert found == value


def test_flags_beat_the_preset() -> None:
    merged = settings("--hyp", "VOC", "--optim.lr0", "0.02")
    assert (merged.optim.lr0, merged.optim.lrf) == (0.02, 0.15135)


def test_a_wrong_value_names_the_flag() -> None:
    with pytest.raises(UserError, match=r"epochs \(--epochs\): should be a valid integer, got 'ten'"):
        settings("--epochs", "ten")


def answer(parser: Callable[[], Parser], *argv: str) -> str:
    with pytest.raises(UserError) as caught:
        parser().parse_strictly(argv)
    return str(caught.value)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--epoch", "there is no flag --epoch; did you mean --epochs?"),
        ("--batch_size", "did you mean --batch-size?"),
        ("--single_cls", "did you mean --single-cls?"),
        ("--lr0", "did you mean --optim.lr0?"),
        ("--momentum=0.9", "there is no flag --momentum; did you mean --optim.momentum?"),
        ("--optim.weight-decay", "did you mean --optim.weight_decay?"),
        ("--visualize", "there is no flag --visualize: this version does not have it"),
        ("--adam", "write --optimizer Adam"),
        ("--qqqq", "there is no flag --qqqq ("),
    ],
)
def test_an_unknown_flag_is_answered(typed: str, says: str) -> None:
    assert says in answer(train.parser, "--rect", typed)


def test_words_that_no_flag_takes() -> None:
    assert "'640' stands alone" in answer(train.parser, "--imgsz", "640", "640")
    assert "expected one argument" in answer(train.parser, "--epochs")


def test_flags_are_never_abbreviated() -> None:
    assert "did you mean --epochs?" in answer(train.parser, "--epo", "3")


def test_flags_that_are_here_are_not_called_missing() -> None:
    for module, _ in TABLES.values():
        for flags in module.GROUPS.values():
            assert not {name for flag in flags for name in flag.names.split()} & set(YOLOV5_FLAGS)


@pytest.mark.parametrize("verb", TABLES)
def test_the_table_has_each_setting_once_with_its_default(verb: str) -> None:
    module, kind = TABLES[verb]
    flags = [flag for group in module.GROUPS.values() for flag in group]
    assert sorted(flag.setting for flag in flags) == sorted(setting_names(kind))
    shown = {flag.setting: flag.default for flag in flags}
    assert shown == {name: as_text(kind, name) for name in setting_names(kind)}


def as_text(kind: type[Frozen], setting: str) -> str:
    """A default as the flag table writes it."""
    value: Any = kind()
    for part in setting.split("."):
        value = getattr(value, part)
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_val_and_predict_flags() -> None:
    given = val.parser().parse_strictly("--task speed --half --verbose --save-json --iou-thres 0.65".split())
    checked = load(ValConfig, origins(given, *val.GROUPS.values()))
    assert (checked.task, checked.half, checked.verbose, checked.save_json) == ("speed", True, True, True)
    given = predict.parser().parse_strictly("--classes 0 2 --agnostic-nms --source 0 --vid-stride 3".split())
    found = load(PredictConfig, origins(given, *predict.GROUPS.values()))
    assert (found.classes, found.agnostic_nms, found.source, found.vid_stride) == ((0, 2), True, "0", 3)
