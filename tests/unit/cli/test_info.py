"""`boxwright info`: published names, model yaml files and checkpoints, with the published figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from torch import nn

import boxwright as bw
from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.yolo.verbs.info import describe, list_modules, parameter_rows
from boxwright.yolo.zoo import build_model, load_spec


@pytest.mark.parametrize(
    ("model", "parameters", "fused", "gflops"),
    [
        ("yolov5n", 1_872_157, 1_867_405, 4.47),
        ("yolov5s", 7_235_389, 7_225_885, 16.43),
        ("yolov5m", 21_190_557, 21_172_173, 48.87),
    ],
)
def test_published_figures(model: str, parameters: int, fused: int, gflops: float) -> None:
    summary = describe(model)
    assert (summary.num_parameters, summary.num_parameters_fused) == (parameters, fused)
    assert summary.gflops == pytest.approx(gflops, abs=0.005)
    assert summary.network.strides == (8, 16, 32)


def test_cost_grows_with_the_area() -> None:
    assert describe("yolov5n", imgsz=320).gflops * 4 == pytest.approx(describe("yolov5n").gflops)


def test_a_model_yaml_and_a_checkpoint(tmp_path: Path) -> None:
    spec = load_spec("yolov5n", 3)
    own = tmp_path / "mein Modell.yaml"
    own.write_text(yaml.safe_dump(spec.to_mapping()), encoding="utf-8")
    model = build_model(spec, ["a", "b", "c"])
    about = {"spec": spec.to_mapping(), "names": list(model.names), "strides": list(model.strides)}
    content = {"format": "boxwright", "version": 1, "model": about, "state_dict": model.state_dict(), "ema": None}
    save_checkpoint(tmp_path / "best.pt", content)
    from_yaml, from_weights = describe(str(own)), describe(str(tmp_path / "best.pt"))
    assert from_yaml.num_parameters == from_weights.num_parameters == sum(p.numel() for p in model.parameters())
    assert from_weights.network.names == ("a", "b", "c")


def test_the_table_has_a_line_a_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--cfg", "yolov5n", "--nc", "1", "--imgsz", "320", "640"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 25 + 3
    assert lines[14].split(maxsplit=4) == ["13", "-1", "1", "90,880", "C3              [256, 128, 1, False]"]
    assert lines[-2].startswith("yolov5n: 25 layers (214 modules), 1,765,270 parameters (1,760,518 fused)")
    assert lines[-2].endswith("1,765,270 gradients, 1 class")
    assert lines[-1].endswith("for one image of 640 x 320 (convolutions)")


def test_verbose_lists_each_parameter() -> None:
    summary = describe("yolov5n")
    assert len(summary.text(verbose=True).splitlines()) == len(summary.text().splitlines()) + 2 + 177
    row = next(row for row in summary.parameters if row.name == "model.24.m.1.bias")
    assert (row.index, row.trained, row.count, row.shape) == (174, True, 255, (255,))
    head = build_model(load_spec("yolov5n")).state_dict()["model.24.m.1.bias"]
    assert row.mean == pytest.approx(float(head.mean()), abs=0.1)
    assert row.std == pytest.approx(float(head.std()), abs=0.1)


def test_modules_are_found_by_class_and_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    network = build_model(load_spec("yolov5n"))

    def found(pattern: str) -> list[str]:
        return [line.split()[1] for line in list_modules(network, pattern).splitlines()[1:-1]]

    assert len(found("BatchNorm2d")) == 57
    assert found("*Pool*") == ["model.9.m"]
    assert found("model.9.cv?") == ["model.9.cv1", "model.9.cv2"]
    assert main(["info", "yolov5n", "--find", "SPPF"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["9", "model.9", "SPPF", "164,608"]
    assert main(["info", "yolov5n", "--find", "Nothing"]) == 2
    assert "class or name like 'Nothing'" in capsys.readouterr().err


def test_modules_of_a_class_have_the_number_of_their_layer() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.LeakyReLU()), nn.ReLU6())
    assert [found[:2] for found in bw.find_modules(network, nn.ReLU)] == [(1, "1.0")]
    assert [found.layer for found in bw.find_modules(network, nn.Module)] == [0, 1, 1, 1, 2]
    assert [found.layer for found in bw.find_modules(nn.ModuleDict({"a": network}), "*ReLU*")] == [1, 1, 2]
    assert bw.find_modules(nn.ModuleDict({"a": nn.ReLU()}), nn.ReLU)[0].layer == -1


def test_frozen_parameters_have_no_gradient() -> None:
    network = build_model(load_spec("yolov5n"))
    network.requires_grad_(False)
    assert not any(row.trained for row in parameter_rows(network))


def test_mistakes() -> None:
    with pytest.raises(UserError, match="no model 'yolov5q'"):
        describe("yolov5q")
    with pytest.raises(UserError, match=r"no weights at gone\.pt"):
        describe("gone.pt")
    with pytest.raises(UserError, match="largest stride of yolov5n is 32"):
        describe("yolov5n", imgsz=333)
    with pytest.raises(UserError, match="--imgsz 64 333"):
        describe("yolov5n", imgsz=(64, 333))
    with pytest.raises(UserError, match="name a model"):
        describe()
    with pytest.raises(UserError, match="its own number of classes"):
        describe("gone.pt", num_classes=3)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["yolov5n", "--cfg", "yolov5s"], "two values are named for MODEL: yolov5n and --model yolov5s"),
        (["yolov5n", "--nc", "0"], "num_classes (--nc): should be greater than or equal to 1, got '0'"),
        (["yolov5n", "--imgsz", "1", "2", "3"], "imgsz (--imgsz): should have at most 2 items"),
    ],
)
def test_mistakes_in_the_flags(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *argv]) == 2
    assert says in capsys.readouterr().err
