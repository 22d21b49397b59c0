"""CenterFusion as an ONNX file against PyTorch, association included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from boxwright.centerfusion.export import CenterExportInfo, CenterOnnx, _example_inputs, compare_center, export_center
from boxwright.centerfusion.frustum import FrustumOptions, associate
from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from boxwright.centerfusion.structures import RawHeads
from boxwright.errors import UserError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SIZE = (64, 96)


def lively(**changes: object) -> CenterFusion:
    """A network whose taps move, whose normalisation fits its data and whose first heads see objects."""
    torch.manual_seed(0)
    model = CenterFusion(CenterFusionSpec(**{"width": 0.125, "head_conv": 64} | changes))  # type: ignore[arg-type]
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, which is the one
        if name.endswith("conv_offset_mask"):
            nn.init.normal_(module.weight, std=0.02)  # type: ignore[arg-type]
    with torch.no_grad():
        model.wh[2].bias.copy_(torch.tensor([7.0, 9.0]))  # type: ignore[union-attr]
        model.dep[2].bias.fill_(-2.9)  # type: ignore[union-attr]
        model.dim[2].bias.copy_(torch.tensor([1.7, 1.9, 4.6]))  # type: ignore[union-attr]
        model.train()(torch.randn(2, 3, *SIZE), association=torch.zeros(2, 3, SIZE[0] // 4, SIZE[1] // 4))
    return model


def test_with_radar(tmp_path: Path) -> None:
    """The association as published; mended it is exported in test_frustum.py."""
    model = lively()
    model.frustum, model.num_peaks = FrustumOptions(max_depth=50.0), 20
    agreement = export_center(model, tmp_path / "x.onnx", SIZE)
    assert model.training  # left as it was
    assert set(agreement.heads) == {*model.first_heads, *model.second_heads}
    assert max(agreement.heads.values()) <= 1e-4, agreement
    assert agreement.association <= 1e-5
    file = CenterOnnx(tmp_path / "x.onnx")
    assert file.info == CenterExportInfo(file.info.names, SIZE, model.spec, model.frustum, 20)
    radar = torch.zeros(3, 3, 16, 24)
    radar[:, 0] = torch.rand(3, 16, 24) * 30 + 5
    calibs = torch.tensor([[100.0, 0, 48, 0], [0, 100, 32, 0], [0, 0, 1, 0]]).expand(3, 3, 4)
    heads = file(torch.randn(3, 3, *SIZE), radar, calibs)  # another batch than it was traced with
    assert heads["velocity"].shape == (3, 3, 16, 24)
    assert (heads["pc_hm"][:, 0] != 0).flatten(1).any(1).all()  # something was associated in every image
    assert heads["pc_hm"][:, 0].max() <= 35 / 50


def test_without_radar(tmp_path: Path) -> None:
    agreement = export_center(lively(radar=False, num_classes=3, dla_node="conv"), tmp_path / "x.onnx", SIZE)
    assert max(agreement.heads.values()) <= 1e-4
    assert agreement.association == 0
    file = CenterOnnx(tmp_path / "x.onnx")
    assert file(torch.randn(1, 3, *SIZE))["hm"].shape == (1, 3, 16, 24)
    assert file.info.names == ("0", "1", "2")
    with pytest.raises(UserError, match="takes images of 96x64 pixels only"):
        file(torch.randn(1, 3, 64, 64))


def rounded(model: CenterFusion, size: float) -> Callable[..., RawHeads]:
    """A file of a network, as another program would compute it: first heads a little off, then all that follows."""

    def exported(**inputs: Tensor) -> RawHeads:
        generator = torch.Generator().manual_seed(1)
        heads = model(**inputs)
        first = {
            name: heads[name] + size * torch.randn(heads[name].shape, generator=generator) for name in model.first_heads
        }
        association = associate(first, inputs["radar"], inputs["calibs"], model.frustum, model.num_peaks)
        rest = model(inputs["images"], association=association)
        return first | {name: rest[name] for name in ("pc_hm", *model.second_heads)}

    return exported


@torch.no_grad()
def test_objects_that_only_rounding_orders_are_no_difference() -> None:
    model = lively().eval()
    model.hm[2].weight.zero_()  # type: ignore[union-attr]  # every cell scores alike
    inputs = _example_inputs(SIZE, radar=True)
    agreement = compare_center(model, rounded(model, 1e-6), inputs)
    assert not agreement.fault, agreement
    assert agreement.num_rounded > 0
    assert "with another radar return, where rounding decides which" in str(agreement)


@torch.no_grad()
def test_a_wrong_file_is_refused() -> None:
    model = lively().eval()
    inputs = _example_inputs(SIZE, radar=True)
    assert not compare_center(model, model, inputs).fault

    def elsewhere(**given: Tensor) -> RawHeads:
        heads = model(**given)
        return model(given["images"], association=heads["pc_hm"].roll(3, dims=3))

    assert "associated radar by " in compare_center(model, elsewhere, inputs).fault
    assert "it differs from PyTorch" in compare_center(model, rounded(model, 0.1), inputs).fault

    def no_number(**given: Tensor) -> RawHeads:
        heads = model(**given)
        return heads | {"velocity": heads["velocity"] * torch.nan}

    assert "(velocity)" in compare_center(model, no_number, inputs).fault


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        CenterOnnx(tmp_path / "x.onnx")
    with pytest.raises(UserError, match="is not an exported CenterFusion network"):
        CenterExportInfo.from_json('{"names": []}', tmp_path / "x.onnx")


def test_a_file_of_another_system_is_named() -> None:
    with pytest.raises(
        UserError, match=r"^a.onnx: this is an export of yolo, not of CenterFusion; name the checkpoint"
    ):
        CenterExportInfo.from_json('{"family": "yolo"}', Path("a.onnx"))
