"""Files as the published export names them: opset, batch, folders, NCNN; and files that a published export wrote."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import boxwright as bw
from boxwright.errors import UserError
from boxwright.yolo.zoo import load_spec
from tests.integration.small_runs import write_world
from tests.integration.test_export import NAMES, SCORE, images_of, sure_network, write_checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data yaml, and a checkpoint."""
    root = tmp_path_factory.mktemp("export")
    data, network = write_world(root, num_images=4)
    return data, write_checkpoint(root / "best.pt", sure_network(load_spec(str(network), 2)))


@pytest.fixture(scope="module")
def fixed(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of one size and two images per call, of an old opset."""
    project = tmp_path_factory.mktemp("fixed")
    data, weights = world
    settings: dict[str, Any] = {"imgsz": 64, "static": True, "batch_size": 2, "opset": 12, "conf_thres": SCORE}
    (made,) = bw.export(weights, **settings, project=str(project), name="old", data=str(data))
    assert made == project / "old" / "best.onnx"
    return made


def sizes(value: Any) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def test_an_old_opset_and_a_fixed_batch(fixed: Path) -> None:
    model = onnx.load(str(fixed))
    assert (model.opset_import[0].version, model.ir_version) == (12, 7)
    assert sizes(model.graph.input[0]) == [2, 3, 64, 64]
    network = bw.load(fixed, device="cpu").model
    images = torch.rand(3, 3, 64, 64)  # more than one call takes, and an odd number
    rows = network.decode(network(images))
    assert len(rows) == 3
    torch.testing.assert_close(rows[2:], network.decode(network(images[2:])))


def test_free_files_have_plain_names_and_no_computed_shapes(
    world: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data, weights = world
    (made,) = bw.export(weights, imgsz=128, data=str(data), conf_thres=SCORE)
    model = onnx.load(str(made))
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)  # what ONNX Runtime 1.16 reads
    assert [(value.name, sizes(value)) for value in (*model.graph.input, *model.graph.output)] == [
        ("images", ["batch", 3, "height", "width"]),
        ("output0", ["batch", "rows", 5 + len(NAMES)]),
    ]
    assert not {"Shape", "Range", "Pow"} & {node.op_type for node in model.graph.node}
    assert f"validation images of {data}" in capsys.readouterr().out


def test_ncnn_finds_the_same(world: tuple[Path, Path]) -> None:
    data, weights = world
    source = str(images_of(data))
    ((made, agreement),) = bw.export(weights, include=["ncnn"], imgsz=128, source=source, conf_thres=SCORE).items()
    assert made.name == "best_ncnn_model"
    assert sorted(file.name for file in made.iterdir()) == ["boxwright.json", "model.bin", "model.param"]
    assert agreement.num_same == agreement.num_detections > 0
    assert agreement.box_pixels is not None
    assert agreement.box_pixels < 0.01
    metric = [
        bw.val(path, data, imgsz=96, workers=0, noplots=True, project=str(made.parent / "v"))
        for path in (weights, made)
    ]
    assert metric[0].map == pytest.approx(metric[1].map, abs=1e-6)
    (made / "model.param").unlink()
    with pytest.raises(UserError, match=r"cannot be read as an NCNN model: it holds no model\.param"):
        bw.load(made, device="cpu")


def published(file: Path, target: Path, **metadata: str) -> Path:
    model = onnx.load(str(file))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, str(target))
    return target


def test_a_published_file_runs(world: tuple[Path, Path], fixed: Path, tmp_path: Path) -> None:
    data, _ = world
    photo = next(iter(sorted(images_of(data).iterdir())))
    expected = bw.load(fixed, device="cpu").predict(photo, imgsz=64)
    path = published(fixed, tmp_path / "theirs.onnx", stride="32", names="{0: 'Erythrozyt', 1: 'it''s'}")
    detector = bw.load(path, device="cpu")
    assert detector.names == ("Erythrozyt", "its")
    found = detector.predict(photo, imgsz=64)
    assert not isinstance(found, list)
    assert not isinstance(expected, list)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert bw.val(path, data, workers=0, noplots=True, project=str(tmp_path / "v")).map >= 0


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("__import__('os').system('true')", "no plain values"),  # never executed
        ("{0: 'one'}", r"rows have 7 numbers, not 5 \+ 1 classes"),
        ("(", "no plain values"),
    ],
)
def test_a_strange_file_is_refused(fixed: Path, tmp_path: Path, names: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        bw.load(published(fixed, tmp_path / "x.onnx", stride="32", names=names), device="cpu")


def test_a_published_file_without_names(fixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert bw.load(published(fixed, tmp_path / "x.onnx"), device="cpu").names == ("0", "1")
    assert "does not say its class names: they are the numbers 0 to 1" in caplog.text


def test_a_class_agnostic_nms(world: tuple[Path, Path], tmp_path: Path) -> None:
    data, weights = world
    settings: dict[str, Any] = {"imgsz": 64, "static": True, "conf_thres": SCORE, "source": str(images_of(data))}
    made = [
        next(iter(bw.export(weights, nms=True, agnostic_nms=yes, project=str(tmp_path), name="n", **settings)))
        for yes in (False, True)
    ]
    images = torch.rand(1, 3, 64, 64)
    counts: list[int] = []
    for file in made:
        network = bw.load(file, device="cpu").model
        rows = network.decode(network(images))[0]
        counts.append(int((rows[:, 4] > 0).sum()))
    assert 0 < counts[1] <= counts[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"static": True, "dynamic": True}, "choose one"),
        ({"agnostic_nms": True}, "--agnostic-nms goes with --nms"),
        ({"int8": True, "opset": 12, "source": "x"}, "--int8 needs --opset 13"),
        ({"include": ["engine"]}, r"include: engine is not written here: .*trtexec"),
        ({"include": ["ncnn"], "nms": True}, "leave out ncnn"),
        ({"data": "nowhere.yaml"}, "nowhere.yaml"),
        ({"opset": 3}, "opset"),
    ],
)
def test_settings_that_cannot_be(world: tuple[Path, Path], settings: dict[str, Any], message: str) -> None:
    before = sorted(world[1].parent.iterdir())
    with pytest.raises(UserError, match=message):
        bw.export(world[1], **settings)
    assert sorted(world[1].parent.iterdir()) == before
