"""Frustum association against a plain loop, what `fixed` mends, the borders of what may come in, and its export."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from boxwright.centerfusion import frustum
from boxwright.centerfusion.frustum import (
    FrustumObjects,
    FrustumOptions,
    associate,
    associate_targets,
    found_objects,
    paint,
)
from tests.unit.centerfusion.association_loop import associated
from tests.unit.centerfusion.scenes3d import annotated

FAITHFUL, FIXED = FrustumOptions(), FrustumOptions(fixed=True)
Reading = Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor, Tensor]]


@pytest.fixture(params=["compact", "static"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Radar cells picked as on the CPU, or all of them as elsewhere and in an export."""
    if request.param == "static":
        monkeypatch.setattr(frustum.torch.compiler, "is_compiling", lambda: True)
    return request.param


def scene(seed: int, batch: int, k: int, height: int, width: int) -> tuple[FrustumObjects, Tensor]:
    """Objects of all sizes, many over the border or beyond, and radar whose depths often are equal."""
    rng = np.random.default_rng(seed)
    centers = rng.uniform(-0.4, 1.4, (batch, k, 2)) * [width, height]
    half = rng.choice([0, 0.5, 3, 12, 60], (batch, k, 2)) * rng.uniform(0.5, 1, (batch, k, 2))
    boxes = torch.from_numpy(np.concatenate((centers - half, centers + half), -1)).float()
    boxes = torch.where(torch.from_numpy(rng.random((batch, k, 1)) < 0.2), boxes.round(), boxes)
    depth, thresholds = (torch.from_numpy(rng.uniform(0, high, (batch, k))).float() for high in (30, 9))
    radar = torch.from_numpy(rng.uniform(-5, 5, (batch, 3, height, width))).float()
    depths = rng.integers(1, 40, (batch, height, width)) * (rng.random((batch, height, width)) < rng.uniform(0, 0.7))
    radar[:, 0] = torch.from_numpy(depths).float()
    return FrustumObjects(boxes, depth, thresholds), radar * (radar[:, :1] > 0)


@pytest.mark.usefixtures("either_way")
@settings(max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(1, 3), st.integers(0, 140), st.integers(1, 30), st.integers(1, 40), st.booleans()
)
def test_equals_the_loop(seed: int, batch: int, k: int, height: int, width: int, fixed: bool) -> None:
    objects, radar = scene(seed, batch, k, height, width)
    ratio = (0.3, 1.0, 2.5)[seed % 3]
    options = FrustumOptions(window_ratio=ratio, normalize_depth=seed % 2 == 0, fixed=fixed)
    painted = paint(objects, radar, options)
    for image in range(batch):
        boxes, depth, thresholds = (part[image].numpy() for part in objects)
        expected = associated(boxes, depth, thresholds, radar[image].numpy(), options)
        np.testing.assert_array_equal(painted[image], expected)


def target(
    box: tuple[float, float, float, float],
    radar: Tensor,
    options: FrustumOptions,
    *,
    depth: float = 20.0,
    dims: tuple[float, float, float] = (1.5, 2.0, 2.0),
) -> Tensor:
    """The map (3, H, W) of one annotated box, seen along the axis."""
    calib = torch.tensor([[1e9, 0, 0, 0], [0, 1e9, 0, 0], [0, 0, 1, 0.0]])
    objects = (torch.tensor([[box]]), torch.ones(1, 1, dtype=torch.bool), torch.tensor([[depth]]))
    return associate_targets(
        annotated(*objects, torch.tensor([[dims]]), torch.zeros(1, 1), calib[None], radar[None]), options
    )[0]


def returns(*cells: tuple[int, int, float]) -> Tensor:
    """Radar (3, 20, 30) with returns at row, column of a depth; vx is the row, vz the column."""
    radar = torch.zeros(3, 20, 30)
    for row, column, depth in cells:
        radar[:, row, column] = torch.tensor([depth, row, column])
    return radar


@pytest.mark.usefixtures("either_way")
class TestOneObject:
    BOX = (10.0, 6.0, 20.0, 16.0)

    def test_threshold(self) -> None:
        beyond = returns((8, 12, 21.2))  # half the extent is 1 m
        assert target(self.BOX, beyond, FAITHFUL)[0].any()
        assert not target(self.BOX, beyond, FIXED).any()
        assert target(self.BOX, returns((8, 12, 20.9)), FIXED)[0].any()
        assert not target(self.BOX, returns((8, 12, 21.6)), FAITHFUL).any()

    def test_one_column_more(self) -> None:
        radar = returns((8, 12, 20.0))
        columns = [target(self.BOX, radar, options)[0].any(0).nonzero().flatten() for options in (FAITHFUL, FIXED)]
        assert [found.tolist() for found in columns] == [[13, 14, 15, 16, 17], [13, 14, 15, 16]]

    def test_box_over_the_left_border(self) -> None:
        box, radar = (-2.5, 6.0, 8.0, 16.0), returns((8, 3, 20.0))
        assert not target(box, radar, FAITHFUL).any()
        assert target(box, radar, FIXED)[0].any()

    def test_box_over_the_top_border(self) -> None:
        box, radar = (10.0, -0.5, 20.0, 16.0), returns((8, 12, 20.0))
        assert not target(box, radar, FAITHFUL).any()
        assert target(box, radar, FIXED)[0].any()

    def test_box_larger_than_the_grid_sees_its_last_columns(self) -> None:
        box, radar = (-4.0, 0.0, 40.0, 19.0), returns((8, 3, 20.0), (9, 27, 20.5))
        assert target(box, radar, FAITHFUL)[1:].amax((1, 2)).tolist() == [9, 27]
        assert target(box, radar, FIXED)[1:].amax((1, 2)).tolist() == [8, 3]

    def test_equal_depths_take_the_first_in_row_major_order(self) -> None:
        radar = returns((9, 11, 20.0), (8, 15, 20.0), (8, 18, 20.0), (12, 10, 20.1))
        assert target(self.BOX, radar, FIXED)[1:].amax((1, 2)).tolist() == [8, 15]

    def test_nearest_within_the_threshold(self) -> None:
        radar = returns((7, 11, 3.0), (9, 11, 19.5), (8, 15, 20.0), (12, 10, 22.5))
        assert target(self.BOX, radar, FIXED)[1:].amax((1, 2)).tolist() == [9, 11]

    def test_no_radar(self) -> None:
        assert not target(self.BOX, torch.zeros(3, 20, 30), FAITHFUL).any()

    def test_what_is_no_number_paints_nothing(self) -> None:
        for number in (math.nan, math.inf, -math.inf):
            assert torch.isfinite(target((number, 6.0, 20.0, 16.0), returns((8, 12, 20.0)), FAITHFUL)).all()
            assert not target(self.BOX, returns((8, 12, 20.0)), FAITHFUL, depth=number).any()


def heads(batch: int = 2, height: int = 20, width: int = 30) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels = {"hm": 3, "wh": 2, "dep": 1, "dim": 3, "rot": 8}
    raw = {name: torch.randn(batch, c, height, width, generator=generator) for name, c in channels.items()}
    return raw | {"wh": raw["wh"].abs() * 6, "dep": raw["dep"] - 3, "dim": raw["dim"].abs() * 3}


def calibrations(*focal: float) -> Tensor:
    return torch.stack([torch.tensor([[f, 0, 8.0, 0], [0, f, 450, 0], [0, 0, 1, 0]]) for f in focal])


@pytest.mark.parametrize("options", [FAITHFUL, FIXED])
def test_calibration_of_each_image(options: FrustumOptions) -> None:
    both, raw = calibrations(20.0, 1200.0), heads()
    own, published = (found_objects(raw, calibs, options, 50).thresholds for calibs in (both, both[:1]))
    first, second = (found_objects(raw, both[[i, i]], options, 50).thresholds for i in (0, 1))
    assert torch.equal(own, torch.stack((first[0], second[1])))
    assert torch.equal(published, first)  # one matrix for the batch
    assert not torch.equal(first[1], second[1])


def test_annotations_take_their_own_calibration_in_either_mode() -> None:
    box = torch.tensor([[[5.0, 5, 15, 15]]]).expand(2, 1, 4)
    values = (torch.full((2, 1), 20.0), torch.tensor([1.5, 0.1, 12.0]).expand(2, 1, 3), torch.zeros(2, 1))
    radar = returns((8, 12, 22.0)).expand(2, 3, 20, 30)
    valid, calibs = torch.ones(2, 1, dtype=torch.bool), calibrations(1e6, 1.0)
    painted = associate_targets(annotated(box, valid, *values, calibs, radar), FAITHFUL)
    assert painted[:, 0].amax((1, 2)).gt(0).tolist() == [False, True]


def test_padding_paints_nothing() -> None:
    objects, radar = scene(3, 2, 40, 20, 30)
    valid = torch.arange(40).expand(2, 40) < torch.tensor([[7], [0]])
    painted = paint(objects, radar, FIXED, valid)
    first = FrustumObjects(*(part[:, :7] for part in objects))
    assert torch.equal(painted[0], paint(first, radar, FIXED)[0])
    assert painted[0].any()
    assert not painted[1].any()


@pytest.mark.usefixtures("either_way")
def test_more_objects_than_cells_and_than_one_turn_of_painting() -> None:
    raw, radar = heads(2, 6, 7), scene(1, 2, 1, 6, 7)[1]
    painted = associate(raw, radar, calibrations(900.0, 900.0), FAITHFUL, k=1000)
    objects = found_objects(raw, calibrations(900.0, 900.0), FAITHFUL, 1000)
    assert objects.depth.shape == (2, 3 * 6 * 7)
    for image in range(2):
        boxes, depth, thresholds = (part[image].numpy() for part in objects)
        expected = associated(boxes, depth, thresholds, radar[image].numpy(), FAITHFUL)
        np.testing.assert_array_equal(painted[image], expected)
    assert painted.any()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_painting_is_the_same_under_autocast(kind: torch.dtype) -> None:
    """As `--half` runs it; boxes of which all take the way that sums powers, too large for float16."""
    rng = np.random.default_rng(0)
    low = torch.from_numpy(rng.uniform(0, 9, (2, 90, 2))).float()
    objects = FrustumObjects(torch.cat((low, low + 20), -1), torch.full((2, 90), 20.0), torch.full((2, 90), 20.0))
    radar = scene(0, 2, 1, 30, 40)[1]
    options = FrustumOptions(window_ratio=1.0, fixed=True)
    with torch.autocast("cpu", dtype=kind):
        painted = paint(objects, radar, options)
    assert torch.equal(painted, paint(objects, radar, options))
    assert painted.any()


def test_no_objects() -> None:
    empty = (torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), torch.zeros(2, 0), torch.zeros(2, 0, 3))
    painted = associate_targets(
        annotated(*empty, torch.zeros(2, 0), calibrations(9.0, 9.0), torch.ones(2, 3, 5, 6)), FAITHFUL
    )
    assert painted.shape == (2, 3, 5, 6)
    assert not painted.any()


def test_painted_by_depth() -> None:
    raw, calibs = heads(), calibrations(900.0, 900.0)
    depth = found_objects(raw, calibs, FrustumOptions(by_depth=True), 30).depth
    assert torch.equal(depth, found_objects(raw, calibs, FAITHFUL, 30).depth.sort(dim=1).values)


def test_switched_off_at_training() -> None:
    radar = scene(2, 2, 1, 5, 6)[1]
    off = FrustumOptions(enabled=False)
    empty = (torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), torch.zeros(2, 0), torch.zeros(2, 0, 3))
    painted = associate_targets(annotated(*empty, torch.zeros(2, 0), calibrations(9.0, 9.0), radar), off)
    assert torch.equal(painted, radar / torch.tensor([60.0, 1, 1])[:, None, None])
    assert associate({}, radar, calibrations(9.0, 9.0), off.model_copy(update={"normalize_depth": False})) is radar


def test_nothing_flows_back_and_half_precision_is_taken() -> None:
    raw = {name: head.requires_grad_() for name, head in heads().items()}
    radar = scene(0, 2, 1, 20, 30)[1]
    painted = associate(raw, radar, calibrations(900.0, 900.0), FIXED)
    assert not painted.requires_grad
    halves = {name: head if name == "hm" else head.bfloat16() for name, head in raw.items()}  # no equal scores
    again = associate({name: head.float() for name, head in halves.items()}, radar, calibrations(900.0, 900.0), FIXED)
    assert torch.equal(associate(halves, radar, calibrations(900.0, 900.0), FIXED), again)


NAMES = {"hm": 3, "wh": 2, "dep": 1, "dim": 3, "rot": 8}


class Association(nn.Module):
    def __init__(self, options: FrustumOptions) -> None:
        super().__init__()
        self.options = options

    def forward(
        self, hm: Tensor, wh: Tensor, dep: Tensor, dim: Tensor, rot: Tensor, radar: Tensor, calibs: Tensor
    ) -> Tensor:
        heads = {"hm": hm, "wh": wh, "dep": dep, "dim": dim, "rot": rot}
        return associate(heads, radar, calibs, self.options, k=40)


def inputs() -> tuple[Tensor, ...]:
    """Heads, radar of which many cells have equal depths, and calibrations."""
    generator = torch.Generator().manual_seed(0)
    raw = [torch.randn(2, channels, 20, 30, generator=generator) for channels in NAMES.values()]
    raw[1], raw[2], raw[3] = raw[1].abs() * 6, raw[2] - 2.5, raw[3].abs() * 3
    radar = torch.randn(2, 3, 20, 30, generator=generator)
    radar[:, 0] = (radar[:, 0] * 20).round().clamp(min=0)
    calibs = torch.tensor([[900.0, 0, 800, 0], [0, 900, 450, 0], [0, 0, 1, 0]]).repeat(2, 1, 1)
    calibs[1, 0, 0] = 30.0
    return *raw, radar, calibs


def test_traced() -> None:
    """The association as published; mended it is traced by `test_onnx`."""
    model, given = Association(FAITHFUL).eval(), inputs()
    expected = model(*given)
    assert expected.any()
    assert torch.equal(torch.export.export(model, given).module()(*given), expected)


def test_onnx(tmp_path: Path) -> None:
    """The association mended; as published it is exported in test_export.py."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, given = Association(FrustumOptions(fixed=True, by_depth=True)).eval(), inputs()
    program = torch.onnx.export(model, given, dynamo=True, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "association.onnx"))
    session = runtime.InferenceSession(tmp_path / "association.onnx", providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (painted,) = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
    np.testing.assert_allclose(painted, model(*given), atol=1e-5)
