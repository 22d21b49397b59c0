"""What a command may import before it has something to compute."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from boxwright.cli.main import VERBS

HEAVY = ("torch", "torchvision", "cv2", "matplotlib", "numpy", "scipy", "hotcoco", "tensorboard", "rich")


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


def test_a_mistake_is_found_before_torch_is_loaded() -> None:
    loaded = modules_after("import boxwright.cli.main as m; m.main(['train', '--epochs', 'ten'])")
    assert "pydantic" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_the_measure_can_fail() -> None:
    assert "numpy" in modules_after("import numpy")
