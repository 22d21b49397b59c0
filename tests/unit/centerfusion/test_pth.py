"""Published files of centre networks: prefixes, entries that do not fit, the start of a network with radar."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec, build_centerfusion
from boxwright.centerfusion.pth import load_published, read_center_pth
from boxwright.errors import UserError


def small(seed: int, **changes: object) -> CenterFusion:
    torch.manual_seed(seed)
    return build_centerfusion(CenterFusionSpec(**{"width": 0.125} | changes))  # type: ignore[arg-type]


def save(path: Path, model: CenterFusion, prefix: str = "", **more: object) -> Path:
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 60, "state_dict": state, **more}, path)
    return path


def test_data_parallel_prefix_and_optimizer(tmp_path: Path) -> None:
    trained, network = small(1), small(2)
    optimizer = torch.optim.Adam(trained.parameters(), 1e-3)
    trained.hm(torch.randn(1, 8, 2, 2)).sum().backward()
    optimizer.step()
    path = save(tmp_path / "model.pth", trained, "module.", optimizer=optimizer.state_dict())
    read = read_center_pth(path)
    assert read.epoch == 60
    report = load_published(network, read.state_dict)
    assert str(report) == "446 of 446 entries loaded"
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in network.state_dict().items())
    assert read.optimizer is not None
    again = torch.optim.Adam(network.parameters(), 1.0)
    again.load_state_dict(dict(read.optimizer))
    assert again.param_groups[0]["lr"] == 1e-3
    first = next(iter(again.state.values()))
    torch.testing.assert_close(first["exp_avg"], next(iter(optimizer.state.values()))["exp_avg"])


def test_camera_only_file_starts_a_network_with_radar(tmp_path: Path) -> None:
    baseline, network = small(1, radar=False), small(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_published(network, read_center_pth(save(tmp_path / "base.pth", baseline)).state_dict)
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
    assert "keep their own start" in str(report)


def test_other_heads_and_unknown_entries(tmp_path: Path) -> None:
    trained, network = small(1, num_classes=3), small(2)
    path = save(tmp_path / "model.pth", trained)
    content = torch.load(path)
    content["state_dict"]["tracking.0.weight"] = torch.zeros(2)
    torch.save(content, path)
    report = load_published(network, read_center_pth(path).state_dict)
    assert report.missing == ("hm.2.weight", "hm.2.bias")
    assert dict(report.skipped) == {
        "hm.2.weight": "3x32x1x1 instead of 10x32x1x1",
        "hm.2.bias": "3 instead of 10",
        "tracking.0.weight": "not in the network",
    }
    assert str(report) == (
        "444 of 446 entries loaded, 2 keep their own start (hm.2.weight, hm.2.bias), "
        "3 of the file not used (hm.2.weight: 3x32x1x1 instead of 10x32x1x1, hm.2.bias: 3 instead of 10, "
        "tracking.0.weight: not in the network)"
    )


def test_entries_of_the_backbone_alone(tmp_path: Path) -> None:
    trained, network = small(1), small(2)
    torch.save(trained.base.state_dict() | {"fc.weight": torch.zeros(4, 64, 1, 1)}, tmp_path / "dla34.pth")
    report = load_published(network, read_center_pth(tmp_path / "dla34.pth").state_dict)
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
        read_center_pth(tmp_path / "x.pth")


def test_nothing_is_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (print, ("executed",))

    torch.save({"state_dict": {"a": torch.zeros(1)}, "optimizer": Hostile()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="nothing was executed"):
        read_center_pth(tmp_path / "x.pth")
