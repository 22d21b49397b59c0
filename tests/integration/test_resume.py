"""A run that was killed and resumed equals one that was not, bit for bit: weights, average, optimizer, results.csv."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from boxwright.data.convert import convert_data
from tests.integration.small_runs import run, write_world

EPOCHS, STEPS = 3, 6  # 22 images in batches of 4
SETTINGS: dict[str, Any] = {
    "epochs": EPOCHS,
    "batch_size": 4,
    "imgsz": 64,
    "workers": 0,
    "device": "cpu",
    "multi_scale": True,
    "loss.autobalance": True,
    "noplots": True,
    "seed": 7,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings, and the run that nothing disturbed."""
    root = tmp_path_factory.mktemp("resume ünd mehr")
    data, network = write_world(root)
    settings = SETTINGS | {"data": str(data), "model": str(network), "project": str(root / "runs")}
    done = run(settings | {"name": "whole"})
    assert done.returncode == 0, done.stderr
    return {"settings": settings, "whole": root / "runs" / "whole"}


def assert_same(ours: Any, theirs: Any, place: str = "") -> None:
    assert type(ours) is type(theirs), place
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), place
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), place
        for key in ours:
            assert_same(ours[key], theirs[key], f"{place}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), place
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{place}[{i}]")
    else:
        assert ours == theirs, place


def assert_same_run(folder: Path, whole: Path) -> None:
    assert (folder / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    for name in ("last.pt", "best.pt"):
        ours, theirs = (torch.load(f / "weights" / name, weights_only=True) for f in (folder, whole))
        for content in (ours, theirs):
            for setting in ("name", "workers", "model", "exist_ok", "data"):
                content["config"].pop(setting)
        assert_same(ours, theirs, name)


def test_killed_three_times(world: dict[str, Any]) -> None:
    """The killed run reads shards of the same images: neither shows."""
    folder = world["whole"].parent / "killed"
    shards = folder.parents[1] / "shards"
    convert_data(world["settings"]["data"], shards, "shards", shard_bytes=10_000)
    assert len([*shards.glob("train-*.tar")]) > 2
    settings = world["settings"] | {"name": "killed", "data": str(shards / "shards.yaml")}
    # After the first epoch there is something to go on with: three kills in the second and third, mid-epoch at random.
    steps = sorted(np.random.default_rng().choice(np.arange(STEPS + 1, EPOCHS * STEPS), 3, replace=False).tolist())
    for attempt, step in enumerate(steps):
        killed = (
            run(settings, at_step=step)
            if attempt == 0
            else run({"workers": attempt}, resume=folder / "weights" / "last.pt", at_step=step)
        )
        assert killed.returncode == -9, (steps, killed.stderr)
    done = run({"workers": 2}, resume=folder)
    assert done.returncode == 0, (steps, done.stderr)
    assert_same_run(folder, world["whole"])


def test_told_to_stop(world: dict[str, Any]) -> None:
    """SIGTERM in the first epoch and SIGINT in the last: the step is finished and saved, nothing is done twice.

    What the network was built from is gone by then.
    """
    folder = world["whole"].parent / "told"
    network = world["whole"].parent / "moved.yaml"
    network.write_text(Path(world["settings"]["model"]).read_text())
    stopped = run(world["settings"] | {"name": "told", "model": str(network)}, signal="SIGTERM", at_step=3)
    network.unlink()
    assert stopped.returncode == 143, stopped.stderr
    assert f"boxwright train --resume '{folder / 'weights' / 'last.pt'}'" in stopped.stderr
    content = torch.load(folder / "weights" / "last.pt", weights_only=True)
    assert (content["engine"]["run"]["epoch"], content["engine"]["run"]["step"]) == (0, 4)
    stopped = run({}, resume=folder, signal="SIGINT", at_step=2 * STEPS + 2)
    assert stopped.returncode == 130, stopped.stderr
    done = run({"workers": 1}, resume=folder)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, world["whole"])


def test_a_finished_run_is_only_measured_again(world: dict[str, Any]) -> None:
    """As after a kill between the last epoch and the end of the final validation."""
    weights = world["whole"] / "weights"
    before = [(weights / name).read_bytes() for name in ("last.pt", "best.pt")]
    again = run({}, resume=world["whole"])
    assert again.returncode == 0, again.stderr
    assert "has finished its 3 epochs" in again.stderr
    assert f"results in {world['whole']}" in again.stdout
    assert [(weights / name).read_bytes() for name in ("last.pt", "best.pt")] == before


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(world: dict[str, Any], damage: str) -> None:
    folder = world["whole"].parent / f"damaged {damage}"
    shutil.copytree(world["whole"], folder)
    path = folder / "weights" / "last.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes({"flipped": content, "cut": content[:2000], "empty": b"", "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    done = run({}, resume=folder)
    assert done.returncode == 0, done.stderr
    assert "going on from the checkpoint before it, of epoch 2" in done.stderr
    assert_same_run(folder, world["whole"])


def test_without_one_before_the_sentence_says_what_is_left(world: dict[str, Any]) -> None:
    folder = world["whole"].parent / "alone"
    shutil.copytree(world["whole"], folder)
    (folder / "weights" / "last.previous.pt").unlink()
    (folder / "weights" / "last.pt").write_bytes(b"damaged")
    done = run({}, resume=folder)
    assert done.returncode == 2
    assert f"--weights '{folder / 'weights' / 'best.pt'}'" in done.stderr
