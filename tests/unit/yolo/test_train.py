"""How a training run begins: what is rounded, refused, printed, and where its biases start."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from boxwright.engine.device import Policy
from boxwright.engine.distributed import World
from boxwright.errors import UserError
from boxwright.settings.load import load
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.verbs.train import YoloRun, train
from tests.integration.small_runs import small_settings
from tests.unit.data.small_sets import write_yolo

CPU = Policy("fp32", torch.device("cpu"))


def begun(settings: dict[str, Any], **more: Any) -> YoloRun:
    return YoloRun.begin(load(RunConfig, settings | more), CPU, World())


def half_holds(run: YoloRun) -> bool:
    values = [value for value in run.model.state_dict().values() if value.is_floating_point()]
    return all(torch.equal(value, value.half().float()) for value in values)


@pytest.mark.parametrize(
    ("changes", "rounded"),
    [
        ({}, True),
        ({"anchors": 3}, True),  # found ones, which have two decimals
        ({"compat": "fixed"}, False),
        ({"optim": {"release": "v6.0"}}, True),
        ({"optim": {"release": "v5.0"}}, False),
        ({"optim": {"release": "v3"}}, False),
    ],
    ids=str,
)
def test_a_new_run_rounds_its_weights_to_half_precision(tmp_path: Path, changes: dict[str, Any], rounded: bool) -> None:
    assert half_holds(begun(small_settings(tmp_path), **changes)) == rounded


def test_a_number_beyond_half_precision_stays(tmp_path: Path) -> None:
    weights = tmp_path / "large.pt"
    plain = begun(small_settings(tmp_path), compat="fixed").model
    with torch.no_grad():
        plain.state_dict()["model.0.bn.running_var"].fill_(1e5)
    torch.save(
        {"format": "boxwright", "version": 1, "model": plain.describe(), "state_dict": plain.state_dict()}, weights
    )
    made = begun(small_settings(tmp_path), weights=str(weights), model="").model
    assert made.state_dict()["model.0.bn.running_var"].unique().tolist() == [1e5]


def test_strict_refuses_a_class_beyond_the_names(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    labels = {"0": "0 .5 .5 .3 .4\n7 .5 .5 .3 .4\n", "1": "1 .5 .5 .3 .4\n9 .3 .3 .2 .2\n"}
    settings["data"] = str(write_yolo(tmp_path / "beyond", labels))
    assert len(begun(settings).train_index.boxes) == 2
    says = (
        r"--strict: the train split of .* has 2 labels of a class that is none of the 2 names; the first is .*0.txt:2"
    )
    with pytest.raises(UserError, match=says):
        begun(settings, strict=True)


def test_class_biases_start_from_the_frequencies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = small_settings(tmp_path) | {"compat": "fixed"}
    labels = {str(i): "0 .5 .5 .3 .4\n" * (1 + (i > 0)) for i in range(2)}  # three boxes of the first class
    settings["data"] = str(write_yolo(tmp_path / "uneven", labels))
    plain, informed = begun(settings).model, begun(settings, class_frequency=True).model
    same_for_all = math.log(0.6 / (2 - 0.99999))
    moved = torch.tensor([0.0] * 5 + [math.log(share) - same_for_all for share in (0.75, 0.25)])  # 3, a twin; 0: + 1
    for name, bias in plain.named_parameters():
        expected = bias.view(3, -1) + moved if name.startswith("model.5.m") and name.endswith("bias") else bias
        torch.testing.assert_close(informed.get_parameter(name).view_as(expected), expected)
    weights = tmp_path / "w.pt"
    torch.save(
        {"format": "boxwright", "version": 1, "model": plain.describe(), "state_dict": plain.state_dict()}, weights
    )
    begun(settings, class_frequency=True, weights=str(weights), model="")
    assert "--class-frequency has no effect: the head comes from" in caplog.text


def test_lines_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published ones: scaled decay, optimizer with its groups, frozen layers, multi-scale range, SyncBatchNorm."""
    changes = {"freeze": 2, "multi_scale": True, "sync_bn": True, "epochs": 1, "noval": True, "batch_size": 6}
    train(load(RunConfig, small_settings(tmp_path) | changes))
    said = capsys.readouterr().out
    assert "Scaled weight_decay = 0.0005156 (0.0005 is that of batches of 64)" in said  # 6 * 11 / 64
    groups = "6 bias (decay 0), 6 weight (decay 0.0005156), 3 norm (decay 0)"
    assert f"optimizer: SGD (rate 0.01) with parameter groups {groups}" in said
    assert "frozen: 6 parameters of 21 are frozen, model.0, model.1" in said
    assert "Using multi-scale training, image range [32, 96] in steps of 32 pixels" in said
    assert "--sync-bn has no effect in a run of one process" in said


@pytest.mark.parametrize("name", ["../results.txt", "/else/results.txt", "setup.py"])
def test_a_checkpoint_does_not_name_a_results_file_elsewhere(name: str) -> None:
    config = load(RunConfig, {"result_name": name, "optim": {"release": "v3"}})
    with pytest.raises(UserError, match="is written into the run folder"):
        YoloRun.go_on(config, {}, World())
