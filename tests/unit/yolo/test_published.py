"""What a run takes by itself when its network is trained as YOLOv3-SPP was."""

from __future__ import annotations

from typing import Any

import pytest

from boxwright.errors import UserError
from boxwright.settings.load import dump, load
from boxwright.yolo.hyp import load_run
from boxwright.yolo.published import with_release
from boxwright.yolo.settings import LossConfig, RunConfig


def settings(**given: Any) -> RunConfig:
    return with_release(load(RunConfig, given), "v3", has_backbone=True)


def test_other_recipes_are_left_alone() -> None:
    config = load(RunConfig, {"epochs": 3})
    assert with_release(config, "v7.0", has_backbone=True) == config
    assert with_release(load(RunConfig, {"loss.recipe": "v5"}), "v3", has_backbone=True).optim.lr0 == 0.01


def test_published_defaults() -> None:
    config = settings(weights="darknet53.weights")
    assert (config.loss.box, config.loss.obj, config.loss.cls, config.loss.iou_t) == (3.54, 64.3, 37.4, 0.2)
    assert (config.optim.lr0, config.optim.lrf, config.optim.warmup_epochs) == (0.001, 0.01, 0.0)
    assert (config.optim.release, config.optim.cos_lr, config.augment.release) == ("v3", True, "v3")
    assert (config.augment.hsv_h, config.augment.scale, config.multi_scale) == (0.0138, 0.0, True)
    assert (config.freeze, config.optim.clip_norm) == ("backbone", 0.0)
    assert load(RunConfig, dump(config)) == config, "the settings as resolved must pass their own checks"


def test_a_backbone_without_weights_is_not_frozen() -> None:
    assert settings().freeze == (0,)
    assert with_release(load(RunConfig, {"weights": "w"}), "v3", has_backbone=False).freeze == (0,)


def test_what_is_set_stays() -> None:
    given = {"loss.box": 0.05, "optim.warmup_epochs": 1, "multi_scale": "false", "freeze": ["none"], "weights": "w"}
    config = settings(**given)
    assert (config.loss.box, config.loss.obj) == (0.05, 64.3)
    assert (config.optim.warmup_epochs, config.multi_scale, config.freeze) == (1.0, False, (0,))
    by_hand = with_release(RunConfig(loss=LossConfig(cls=1.0)), "v3", has_backbone=True)
    assert (by_hand.loss.cls, by_hand.loss.box) == (1.0, 3.54)


def test_a_hyper_parameter_file_is_set_by_hand() -> None:
    config = with_release(load_run(RunConfig, {}, hyp="scratch-low"), "v3", has_backbone=True)
    assert (config.loss.box, config.optim.lr0) == (0.05, 0.01)


@pytest.mark.parametrize(
    ("given", "freeze"),
    [
        ("none", (0,)),
        (["backbone"], "backbone"),
        ("all-but-predictors", "all-but-predictors"),
        ("10", (10,)),
        (["0,1", "2"], (0, 1, 2)),
    ],
)
def test_freeze(given: Any, freeze: Any) -> None:
    assert load(RunConfig, {"freeze": given}).freeze == freeze


def test_freeze_of_another_word() -> None:
    with pytest.raises(UserError, match=r"freeze: .*it is none, backbone, all-but-predictors, or numbers of layers"):
        load(RunConfig, {"freeze": "head"})
