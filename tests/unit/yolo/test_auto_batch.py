"""The batch size that memory allows: the rule on made-up measurements, the measurement on small networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from boxwright.engine.device import Policy
from boxwright.engine.distributed import World
from boxwright.errors import UserError
from boxwright.yolo import auto_batch
from boxwright.yolo.auto_batch import (
    estimated_batch,
    kept_bytes,
    published_batch,
    shared_batch,
    with_fitting_batch,
)
from boxwright.yolo.settings import RunConfig
from boxwright.yolo.zoo import build_model, read_spec
from tests.integration.small_runs import NETWORK

GIB = 2**30
CPU = Policy("fp32", torch.device("cpu"))


def on_a_line(slope: float, intercept: float, *batches: int, failed: int = 0) -> dict[int, int | None]:
    return {b: None if b == failed else round(slope * b + intercept) for b in batches}


@pytest.mark.parametrize(
    ("measured", "free", "expected"),
    [
        pytest.param(on_a_line(0.5 * GIB, GIB, 1, 2, 4, 8, 16), 40.1 * GIB, 62, id="0.8 of 40 less 1, in halves"),
        pytest.param(on_a_line(0.5 * GIB, GIB, 1, 2, 4, 8, 16), 2 * GIB, 1, id="just one"),
        pytest.param(on_a_line(0.5 * GIB, GIB, 1, 2, 4, 8, 16), GIB, 16, id="below one"),
        pytest.param(on_a_line(0.01 * GIB, GIB, 1, 2, 4, 8, 16), 40 * GIB, 16, id="more than 1024"),
        pytest.param(on_a_line(-0.5 * GIB, 40 * GIB, 1, 2, 4, 8, 16), 40 * GIB, 16, id="it falls"),
        pytest.param(on_a_line(0.5 * GIB, GIB, 1, 2, 4, 8, failed=8), 40 * GIB, 4, id="8 failed, the line says more"),
        pytest.param(on_a_line(0.5 * GIB, GIB, 1, 2, 4, 8, failed=8), 3.5 * GIB, 3, id="8 failed, the line says less"),
        pytest.param(on_a_line(0.5 * GIB, GIB, 1, 2, failed=2), 40 * GIB, 1, id="2 failed"),
    ],
)
def test_the_published_rule(measured: dict[int, int | None], free: float, expected: int) -> None:
    assert published_batch(measured, int(free)) == expected


@pytest.mark.parametrize(("free", "expected"), [(10 * GIB, 14), (GIB, 1), (5000 * GIB, 1024)])
def test_an_estimate_ends_at_the_ends(free: int, expected: int) -> None:
    assert estimated_batch(on_a_line(0.5 * GIB, GIB, 1, 3), free) == expected


@pytest.mark.parametrize(
    ("one", "num_images", "unit", "num_ranks", "expected"),
    [
        pytest.param(37, 10_000, 1, 1, 37, id="alone"),
        pytest.param(37, 10_000, 3, 3, 111, id="three ranks take three times as much"),
        pytest.param(37, 10_000, 4, 1, 36, id="quads"),
        pytest.param(37, 10_000, 8, 2, 72, id="quads of two ranks"),
        pytest.param(1, 10_000, 8, 2, 8, id="no less than the unit"),
        pytest.param(1024, 100_000, 3, 3, 1023, id="no more than 1024 in all"),
        pytest.param(500, 128, 1, 1, 128, id="no more than there are"),
        pytest.param(500, 130, 4, 1, 132, id="no more than there are, rounded"),
    ],
)
def test_all_ranks_together(one: int, num_images: int, unit: int, num_ranks: int, expected: int) -> None:
    assert shared_batch(one, num_images, unit, num_ranks) == expected


def test_what_is_kept_for_the_backward_pass_is_counted_once() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
    images = torch.zeros(5, 8)

    def step() -> None:
        network(images).sum().backward()

    # The input and both results of tanh, one of which the second layer keeps as well; not the weights.
    assert kept_bytes(step, exclude=network) == 3 * 5 * 8 * 4


def test_cpu_the_larger_the_images_the_smaller_the_batch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    model = build_model(read_spec(yaml.safe_load(NETWORK), "the test"), ("a", "b"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 20 * 2**20)
    sizes = {}
    for side in (64, 128):
        config = with_fitting_batch(RunConfig(batch_size=-1, imgsz=(side,), workers=0), model, 10_000, CPU, World())
        sizes[side] = config.batch_size
        assert f"--batch-size {config.batch_size}" in capsys.readouterr().out
    assert 3 * sizes[128] < sizes[64] < 5 * sizes[128]
    alone = RunConfig(batch_size=-1, imgsz=(64,), workers=0)
    halves = World(size=2, local_size=2)
    monkeypatch.setattr(World, "from_first", lambda _, value: value)
    assert with_fitting_batch(alone, model, 10_000, CPU, halves).batch_size == pytest.approx(sizes[64], rel=0.15)
    ahead = alone.model_copy(update={"workers": 1})  # its batches take memory, too
    assert with_fitting_batch(ahead, model, 10_000, CPU, World()).batch_size < sizes[64]
    capsys.readouterr()
    with_fitting_batch(alone, model, 6, CPU, World())
    assert "more would fit, but there are 6 images" in capsys.readouterr().out
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    given = RunConfig(batch_size=5)
    assert with_fitting_batch(given, model, 10_000, CPU, World()) is given


@pytest.mark.parametrize("size", [0, -2])
def test_other_sizes_are_refused(size: int) -> None:
    from boxwright.settings.load import load

    with pytest.raises(UserError, match="batch_size"):
        load(RunConfig, {"batch_size": size})
