"""`boxwright info`: published names, model yaml files and checkpoints, with the published figures."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from boxwright.checkpoints.native import save_checkpoint
from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.jobs.info import describe
from boxwright.models.build import build_model
from boxwright.models.zoo import load_spec


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
    assert summary.strides == (8, 16, 32)


def test_cost_grows_with_the_area() -> None:
    assert describe("yolov5n", 320).gflops * 4 == pytest.approx(describe("yolov5n", 640).gflops)


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
    assert from_weights.names == ("a", "b", "c")


def test_verbose_lists_each_layer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "yolov5n", "--verbose"]) == 0
    text = capsys.readouterr().out
    assert "yolov5n: 25 layers, 1,872,157 parameters (1,867,405 fused), 80 classes" in text
    assert len(text.splitlines()) == 1 + 25 + 2


def test_mistakes() -> None:
    with pytest.raises(UserError, match="no model 'yolov5q'"):
        describe("yolov5q")
    with pytest.raises(UserError, match=r"no weights at gone\.pt"):
        describe("gone.pt")
    with pytest.raises(UserError, match="largest stride of yolov5n is 32"):
        describe("yolov5n", 333)
