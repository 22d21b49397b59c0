"""Which rules val, predict and train go by: those of the release of the network, or of --release."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.yolo import evaluation, postprocess
from boxwright.yolo.published import RELEASES
from boxwright.yolo.zoo import build_model, load_spec
from tests.integration.small_runs import write_world

ARGS = ["--device", "cpu", "--imgsz", "64", "--exist-ok"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data yaml and checkpoints of random networks, one a release."""
    root = tmp_path_factory.mktemp("release")
    data, _ = write_world(root, num_images=4)
    names = tuple(yaml.safe_load(data.read_text())["names"])
    for release, model in (("v3", "yolov3-tiny"), ("v3.0", "yolov5s@v3.0"), ("v7.0", "yolov5n")):
        torch.manual_seed(0)
        network = build_model(load_spec(model, len(names)), names)
        about = {"spec": network.spec.to_mapping(), "names": list(names), "strides": list(network.strides)}
        save_checkpoint(data.parent / f"{release}.pt", {"model": about, "state_dict": network.state_dict()})
    return data


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """The options of every suppression, and whether boxes were rounded after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen: list[dict[str, Any]] = []
    nms, back = postprocess.batched_nms, evaluation.to_original

    def note_nms(decoded: Any, **options: Any) -> Any:
        seen.append(options | {"rounded": False})
        return nms(decoded, **options)

    def note_back(found: Any, batch: Any, **options: Any) -> Any:
        seen[-1]["rounded"] = options["rounded"]
        return back(found, batch, **options)

    monkeypatch.setattr(postprocess, "batched_nms", note_nms)
    monkeypatch.setattr(evaluation, "to_original", note_back)
    return seen


def thresholds(call: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(call[n] for n in ("score_threshold", "iou_threshold", "max_detections", "multi_label", "rounded"))


CURRENT_VAL, V3_VAL = (0.001, 0.6, 300, True, False), (0.01, 0.6, 100, False, True)


@pytest.mark.parametrize(
    ("checkpoint", "flags", "release", "expected", "said"),
    [
        ("v3", "", "v3", V3_VAL, "by the rules of YOLOv3-SPP"),
        ("v3", "--conf-thres .2", "v3", (0.2, *V3_VAL[1:]), "by the rules of YOLOv3-SPP"),
        ("v3", "--release v7.0", "v7.0", CURRENT_VAL, ""),
        ("v3.0", "", "v3.0", CURRENT_VAL, "by the rules of YOLOv5 v3.0"),
        ("v3.0", "--release v7.0", "v7.0", CURRENT_VAL, ""),
        ("v7.0", "", "v7.0", CURRENT_VAL, ""),
        ("v7.0", "--release yolov3-spp", "v3", V3_VAL, "by the rules of YOLOv3-SPP"),
    ],
)
def test_val(
    checkpoint: str,
    flags: str,
    release: str,
    expected: tuple[Any, ...],
    said: str,
    world: Path,
    calls: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = world.parent / f"{checkpoint}.pt"
    given = ["--weights", str(weights), "--data", str(world), "--workers", "0", "--noplots", *flags.split()]
    assert main(["val", *given, *ARGS]) == 0
    assert {thresholds(call) for call in calls} == {expected}
    assert {call["rules"] for call in calls} == {RELEASES[release].nms}
    printed = capsys.readouterr().out
    assert printed.count("by the rules of") == bool(said)
    assert said in printed
    metric = RELEASES[release].validation.metric if "--release" in flags else "v6.1"
    assert f"as of {metric}" in printed


@pytest.mark.parametrize(
    ("checkpoint", "flags", "release", "side"),
    [
        ("v3", "", "v3", 64),
        ("v3.0", "", "v3.0", 64),
        ("v3", "--release v7.0", "v7.0", 32),
        ("v3.0", "--release v7.0", "v7.0", 32),
        ("v7.0", "", "v7.0", 32),
    ],
)
def test_predict(
    checkpoint: str,
    flags: str,
    release: str,
    side: int,
    world: Path,
    calls: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a wide image the shorter side is padded to a multiple of the release's."""

    cv2.imwrite(str(tmp_path / "wide.png"), np.full((30, 64, 3), 90, np.uint8))
    given = ["--weights", str(world.parent / f"{checkpoint}.pt"), "--source", str(tmp_path / "wide.png")]
    assert main(["predict", *given, *ARGS, *flags.split()]) == 0
    assert [call["rules"] for call in calls] == [RELEASES[release].nms]
    printed = capsys.readouterr().out
    assert f"64x{side}" in printed
    assert "rules" not in printed


@pytest.mark.parametrize(
    ("flags", "parts", "expected"),
    [
        ("", ("", "", ""), V3_VAL),  # loss and validation are those of the network
        ("--release v7.0", ("v7.0", "v7.0", "v7.0"), CURRENT_VAL),
        ("--release v3.0 --optim.release v6.0", ("v3.0", "v6.0", "v3.0"), CURRENT_VAL),
    ],
)
def test_train(
    flags: str, parts: tuple[str, ...], expected: tuple[Any, ...], world: Path, calls: list[dict[str, Any]]
) -> None:
    given = ["--model", "yolov3-tiny", "--data", str(world), "--epochs", "1", "--batch-size", "4", "--workers", "0"]
    assert main(["train", *given, *ARGS, "--noplots", "--project", "runs", "--name", "run", *flags.split()]) == 0
    assert {thresholds(call) for call in calls} == {expected}
    written = yaml.safe_load(Path("runs/run/config.yaml").read_text())
    found = (written["loss"]["recipe"], written["optim"]["release"], written["augment"]["release"])
    assert found == (parts if parts[0] else ("", "v3", "v3"))
