"""What a command may import before it has something to compute."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from boxwright.cli.main import VERBS

HEAVY = ("torch", "torchvision", "cv2", "matplotlib", "numpy", "scipy", "hotcoco", "tensorboard", "rich")

# What a verb may use later, or never: a page of plots, a second stage, one of many exported forms.
UNUSED = (
    "torchvision",
    "torch._dynamo",
    "matplotlib",
    "scipy",
    "pandas",
    "tensorboard",
    "onnx",
    "onnxruntime",
    "openvino",
)


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = (
        f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\n"
        "import json; print(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_help_page_of_the_tool_loads_nothing() -> None:
    for argv in (["--help"], ["--version"]):
        loaded = modules_after(f"import boxwright.cli.main as m; m.main({argv!r})")
        assert "boxwright" in loaded
        assert loaded.isdisjoint({*HEAVY, "pydantic", "yaml"})


@pytest.mark.parametrize("verb", [*VERBS, "bench op", "convert data", "train --model centerfusion-dla34"])
def test_help_of_a_verb_loads_settings_only(verb: str) -> None:
    loaded = modules_after(f"import boxwright.cli.main as m; m.main({[*verb.split(), '--help']!r})")
    assert "pydantic" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert modules_after("import boxwright").isdisjoint({*HEAVY, "pydantic", "yaml"})


def test_settings_load_no_torch() -> None:
    loaded = modules_after("import boxwright.settings.load as c, boxwright.yolo.settings as s; c.load(s.RunConfig)")
    assert "pydantic" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("argv", [["train", "--epochs", "ten"], ["train"], ["val"], ["train", "--data", "nowhere"]])
def test_a_mistake_is_found_before_anything_heavy_is_loaded(argv: list[str]) -> None:
    loaded = modules_after(f"import boxwright.cli.main as m; m.main({argv})")
    assert "pydantic" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_torchvision_and_the_compiler_of_torch_are_not_loaded_for_a_network() -> None:
    """Either costs nearly as much as torch itself; a network is built, its boxes are found, an optimizer steps."""
    code = """
import sys
import torch
from boxwright.engine.optim import make_optimizer
from boxwright.ops.nms import batched_nms
from boxwright.settings.base import OptimConfig
from boxwright.yolo.zoo import build_model, load_spec
model = build_model(load_spec("yolov5n", 2))
optimizer = make_optimizer(model, OptimConfig(), 5e-4)
sum(maps.mean() for maps in model(torch.rand(1, 3, 64, 64))).backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
assert len(batched_nms(torch.full((1, 5, 7), 0.9), score_threshold=0.1, iou_threshold=0.5)[0]) == 1
print(sorted({"torchvision", "torch._dynamo", "scipy"} & {*sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("verb", ["predict", "val", "train"])
def test_a_verb_loads_what_it_needs_and_no_more(verb: str) -> None:
    """What draws plots, logs or measures is loaded where it is used; after these modules a verb begins its work."""
    code = f"import sys, boxwright.yolo.verbs.{verb}; print(sorted({{*{UNUSED!r}}} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_the_measure_can_fail() -> None:
    assert "numpy" in modules_after("import numpy")
