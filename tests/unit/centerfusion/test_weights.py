"""Checkpoints of this tool become a detector in Python; published files start a network, whatever fits of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.settings import FAMILY, FusionConfig
from boxwright.centerfusion.weights import load_published, open_trained, read_published
from boxwright.checkpoints.native import FORMAT, VERSION, save_checkpoint
from boxwright.errors import UserError
from boxwright.nuscenes.structures import CLASS_NAMES, ImageAnnotations, ImageRecord
from boxwright.nuscenes.submission import to_global
from boxwright.settings.load import load


def written(path: Path, family: str = FAMILY) -> Path:
    torch.manual_seed(0)
    spec = CenterFusionSpec(width=0.125)
    model = CenterFusion(spec)
    with torch.no_grad():
        dict(model.named_parameters())["dim.2.bias"].fill_(2.0)
    config = load(FusionConfig, {"imgsz": [64, 96], "radar": {"max_depth": 30.0}})
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": {"family": family, "spec": dict(spec), "names": list(CLASS_NAMES)},
        "config": config.model_dump(mode="json"),
        "state_dict": model.state_dict(),
    }
    save_checkpoint(path, content)
    return path


def test_a_checkpoint_is_loaded_with_the_settings_it_was_trained_with(tmp_path: Path) -> None:
    detector = bw.load_fusion(written(tmp_path / "best.pt"), device="cpu")
    assert detector.config.imgsz == (64, 96)
    assert detector.config.radar.max_depth == 30.0
    image = np.zeros((90, 160, 3), np.uint8)
    calib = np.array([(120.0, 0, 80), (0, 120.0, 45), (0, 0, 1)])
    found = detector.predict(image, calib, np.zeros((18, 0)), conf_thres=-1.0, max_det=5)
    assert len(found) == 5
    assert torch.isfinite(found.locations).all()


def test_a_checkpoint_of_another_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other\.pt is not a checkpoint of centerfusion"):
        bw.load_fusion(written(tmp_path / "other.pt", family="detect2d"), device="cpu")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model", None, "it has no model"),
        ("config", None, "it has no config"),
        ("state_dict", {}, "its weights are not those of the network that it describes"),
    ],
)
def test_a_damaged_checkpoint_is_told_in_one_sentence(part: str, value: object, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "best.pt")
    content = torch.load(path, weights_only=True)
    save_checkpoint(path, {**content, part: value})
    with pytest.raises(UserError, match=rf"best\.pt is damaged: {message}$"):
        bw.load_fusion(path, device="cpu")


def test_a_submission_is_measured_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "v1.0-trainval").mkdir()
    for name in ("v1.0-trainval/sample.json", "boxes.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match=r"--json measures boxes as they are, .*: leave out flip_test$"):
        bw.val(model="centerfusion-dla34", data=tmp_path, json_file=str(tmp_path / "boxes.json"), flip_test=True)


def small(seed: int, **changes: object) -> CenterFusion:
    torch.manual_seed(seed)
    return CenterFusion(CenterFusionSpec(**{"width": 0.125} | changes))  # type: ignore[arg-type]


def save(path: Path, model: CenterFusion, prefix: str = "") -> Path:
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 60, "state_dict": state}, path)
    return path


def test_data_parallel_prefix(tmp_path: Path) -> None:
    trained, network = small(1), small(2)
    report = load_published(network, read_published(save(tmp_path / "model.pth", trained, "module.")))
    heads = "hm, reg, wh, dep, rot, dim, amodel_offset, dep_sec, rot_sec, nuscenes_att, velocity"
    assert str(report) == f"446 of 446 entries taken ({heads}, base, dla_up, ida_up)"
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in network.state_dict().items())


def test_camera_only_file_starts_a_network_with_radar(tmp_path: Path) -> None:
    baseline, network = small(1, radar=False), small(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_published(network, read_published(save(tmp_path / "base.pth", baseline)))
    kept = {"dep_sec", "rot_sec", "nuscenes_att", "velocity"}
    first = {f"{name}.0.bias" for name in ("nuscenes_att", "velocity")}  # the only entries of the heads that fit
    assert {name.partition(".")[0] for name in report.missing} == kept
    state = network.state_dict()
    for name, value in state.items():
        source = before if name in report.missing else baseline.state_dict()
        assert torch.equal(value, source[name]), name
        assert (name in report.missing) == (name.partition(".")[0] in kept and name not in first)
    reasons = dict(report.skipped)
    assert reasons["velocity.0.weight"] == "32x8x3x3 instead of 32x11x3x3"
    assert reasons["velocity.2.weight"] == "3x32x1x1 instead of 32x32x1x1"
    assert "part of nuscenes_att, part of velocity); own start: dep_sec, rot_sec; not used: " in str(report)
    assert "nuscenes_att, velocity (32x8x3x3 instead of 32x11x3x3)" in str(report)


def test_other_heads_and_unknown_entries(tmp_path: Path) -> None:
    trained, network = small(1, num_classes=3), small(2)
    path = save(tmp_path / "model.pth", trained)
    content = torch.load(path)
    for name in ("tracking.0.weight", "tracking.2.weight", "base.pre_img_layer.0.weight"):
        content["state_dict"][name] = torch.zeros(2)
    torch.save(content, path)
    report = load_published(network, read_published(path))
    assert report.missing == ("hm.2.weight", "hm.2.bias")
    assert dict(report.skipped) == {
        "hm.2.weight": "3x32x1x1 instead of 10x32x1x1",
        "hm.2.bias": "3 instead of 10",
        "tracking.0.weight": "not in the network",
        "tracking.2.weight": "not in the network",
        "base.pre_img_layer.0.weight": "not in the network",
    }
    assert str(report).startswith("444 of 446 entries taken (reg, wh, ")
    assert str(report).endswith(
        "ida_up, part of hm); not used: hm (3x32x1x1 instead of 10x32x1x1); "
        "not used: tracking, base.pre_img_layer (not in the network)"
    )


def test_published_networks_with_and_without_optional_heads_are_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a published file is, with radar or without, is seen from its entries, whatever switches it was made with."""
    changes: list[dict[str, object]] = [
        {},
        {"radar": False},
        {"radar": False, "velocity": False, "nuscenes_att": False},
        {"radar": False, "velocity": False, "dla_node": "conv", "head_conv": 64},
    ]
    for change in changes:
        saved = small(1, **change)
        caplog.clear()
        with caplog.at_level("INFO"):
            model, config = open_trained(str(save(tmp_path / "model.pth", saved)))
        assert (model.spec, config.no_radar) == (saved.spec, not saved.spec.radar)
        assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())
        assert ("velocities are 0" in caplog.text) == ("velocity" in change)
        assert ("boxes have no attribute" in caplog.text) == ("nuscenes_att" in change)


def test_a_network_of_boxes_alone_says_neither_velocity_nor_attribute(tmp_path: Path) -> None:
    saved = small(1, radar=False, velocity=False, nuscenes_att=False)
    with torch.no_grad():
        dict(saved.named_parameters())["dim.2.bias"].fill_(2.0)
    detector = bw.load_fusion(save(tmp_path / "model.pth", saved), device="cpu")
    calib = np.array([(120.0, 0, 80), (0, 120.0, 45), (0, 0, 1)])
    found = detector.predict(np.zeros((90, 160, 3), np.uint8), calib, conf_thres=-1.0, max_det=5)
    assert len(found) == 5
    assert not found.velocity.any()
    record = ImageRecord(Path(), 160, 90, 1, 0, calib, np.eye(4), ImageAnnotations(*(np.empty(0) for _ in range(11))))
    boxes = to_global([found], [record], fixed=False)
    assert boxes.attributes.tolist() == [-1] * 5
    assert not boxes.velocities.any()


@pytest.mark.parametrize(
    ("change", "dropped", "message"),
    [
        (
            {"num_classes": 80},
            ("dep", "rot"),
            "it lacks the heads dep, rot, and it has 80 classes where nuScenes has",
        ),
        ({"num_classes": 3}, (), r"can only start a training .*: it has 3 classes where nuScenes has 10$"),
        ({}, ("ida_up",), "is not whole: it lacks 38 entries of the network that the others are of, such as ida_up"),
        ({}, ("velocity.2",), "is not whole: it lacks 2 entries of .*, such as velocity.2.weight"),
        ({}, ("base.level5.root",), "is not whole: it lacks entries of centerfusion-dla34 or they have other shapes"),
    ],
)
def test_published_files_that_cannot_be_run(
    change: dict[str, object], dropped: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    state = small(1, radar=False, **change).state_dict()
    left = {name: value for name, value in state.items() if not name.startswith(dropped or ("none",))}
    torch.save(left, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        open_trained(str(tmp_path / "x.pth"))
    report = load_published(small(2), read_published(tmp_path / "x.pth"))  # all can start a training
    assert len(report.loaded) > 200


def test_a_network_with_radar_is_none_without(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a camera and radar network: leave out --no-radar"):
        open_trained(str(save(tmp_path / "model.pth", small(1))), no_radar=True)


def test_entries_of_the_backbone_alone(tmp_path: Path) -> None:
    trained, network = small(1), small(2)
    torch.save(trained.base.state_dict() | {"fc.weight": torch.zeros(4, 64, 1, 1)}, tmp_path / "dla34.pth")
    report = load_published(network, read_published(tmp_path / "dla34.pth"))
    assert all(name.startswith("base.") for name in report.loaded)
    assert len(report.loaded) == len(trained.base.state_dict())
    assert report.skipped == (("base.fc.weight", "not in the network"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds a list"),
        ({"epoch": 3}, "it has no state_dict with weights"),
        ({"state_dict": {"a": 1}}, "it has no state_dict with weights"),
        ({"state_dict": 5}, "it has no state_dict with weights"),
    ],
)
def test_other_files(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=message):
        read_published(tmp_path / "x.pth")


def test_nothing_is_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (print, ("executed",))

    torch.save({"state_dict": {"a": torch.zeros(1)}, "optimizer": Hostile()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="nothing was executed"):
        read_published(tmp_path / "x.pth")
