"""The frustum association as a traced program and as ONNX: the same cells as in eager mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boxwright.centerfusion.frustum import FrustumOptions, associate

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


@pytest.mark.parametrize("fixed", [False, True])
def test_traced(fixed: bool) -> None:
    model, given = Association(FrustumOptions(fixed=fixed)).eval(), inputs()
    expected = model(*given)
    assert expected.any()
    assert torch.equal(torch.export.export(model, given).module()(*given), expected)


@pytest.mark.parametrize("options", [FrustumOptions(fixed=True, by_depth=True)])  # faithful: test_export_center.py
def test_onnx(options: FrustumOptions, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, given = Association(options).eval(), inputs()
    program = torch.onnx.export(model, given, dynamo=True, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "association.onnx"))
    session = runtime.InferenceSession(tmp_path / "association.onnx", providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (painted,) = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
    np.testing.assert_allclose(painted, model(*given), atol=1e-5)
