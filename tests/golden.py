"""Where golden vectors lie and which cases there are: found from the files, never listed in a test."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = (ROOT / os.environ.get("BOXWRIGHT_SHARED", "../shared")).resolve()
GOLDEN = (ROOT / os.environ.get("BOXWRIGHT_GOLDEN", "../shared/golden")).resolve()

GOLDEN_HUB = (ROOT / os.environ.get("BOXWRIGHT_GOLDEN_HUB", SHARED / "golden_hub")).resolve()


def golden_cases(area: str, pattern: str, family: str = "yolo") -> list[Any]:
    """One pytest parameter (the file) for each file of the area that fits the glob; a skipped one if there is none.

    family: `yolo`; `hub`, in a folder of its own; or `centerfusion`, whose files lie in no area ("").
    """
    files = sorted((GOLDEN_HUB if family == "hub" else GOLDEN / family).joinpath(area).glob(pattern))
    if not files:
        reason = f"no golden vectors {family}/{area}/{pattern} below {GOLDEN}"
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]
    return [pytest.param(file, id=file.stem) for file in files]


def read_case(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the scalars of one case: <stem>.npz and <stem>.json, either may be absent."""
    npz, meta = file.with_suffix(".npz"), file.with_suffix(".json")
    arrays = dict(np.load(npz)) if npz.exists() else {}
    return arrays, json.loads(meta.read_text()) if meta.exists() else {}


def fill_module() -> ModuleType:
    """The weight recipe that lies beside the vectors."""
    spec = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
