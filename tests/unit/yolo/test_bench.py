"""`boxwright bench op`: what is measured, and how a module that does not run is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import boxwright as bw
from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.yolo.layers import C3, Conv
from boxwright.yolo.verbs.bench import build_module, measure


def test_figures_of_a_convolution() -> None:
    cost = measure(nn.Conv2d(8, 16, 3, padding=1), torch.randn(2, 8, 20, 30), repeats=2)
    assert cost.num_parameters == 8 * 16 * 9 + 16
    assert cost.gflops == pytest.approx(2 * 2 * 20 * 30 * 8 * 16 * 9 / 1e9)
    assert cost.memory == 2 * 8 * 20 * 30 * 4  # its input is all that the backward pass needs
    assert (cost.in_shape, cost.out_shape) == ((2, 8, 20, 30), ((2, 16, 20, 30),))
    assert cost.forward > 0
    assert cost.backward is not None
    assert cost.backward > 0


def test_without_anything_to_differentiate() -> None:
    class Rounded(nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [x.detach().round(), x.argmax(1)]

    cost = measure(Rounded(), torch.randn(1, 3, 4, 4), repeats=1)
    assert cost.backward is None
    assert cost.out_shape == ((1, 3, 4, 4), (1, 4, 4))


def test_a_module_that_works_in_place() -> None:
    assert measure(nn.ReLU(inplace=True), torch.randn(1, 3, 4, 4), repeats=1).out_shape == ((1, 3, 4, 4),)


def test_a_module_that_does_not_run_says_why() -> None:
    with pytest.raises(UserError, match=r"does not run: .*8 channels") as error:
        measure(nn.Conv2d(8, 16, 3), torch.randn(1, 3, 8, 8), repeats=1)
    assert "\n" not in str(error.value)


def test_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["bench", "op", "--op", "C3(8, 8)", "--op", "Conv2d(3, 8, 1)", "--shape", "1", "8", "16", "16"]
    assert main([*argv, "--device", "cpu", "--repeats", "1"]) == 1  # the second does not fit
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("boxwright ")  # versions and machine
    assert len(lines) == 5
    assert lines[3].startswith("C3(8, 8)")
    assert lines[3].endswith("1x8x16x16 -> 1x8x16x16")
    assert "does not run: " in lines[4]


def test_several_inputs_in_half_precision(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["bench", "op", "--op", "Conv2d(3, 8, 1)", "--op", "SiLU()", "--shape", "1", "3", "8", "8"]
    argv += ["--shape", "2,3,4,4", "--half", "--device", "cpu", "--repeats", "1"]
    assert main(argv) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()[1:]
    assert head == "cpu, bfloat16, 1 repeats"
    sizes = ("1x3x8x8 -> 1x8x8x8", "1x3x8x8 -> 1x3x8x8", "2x3x4x4 -> 2x8x4x4", "2x3x4x4 -> 2x3x4x4")
    assert [row.rpartition("  ")[2] for row in rows] == list(sizes)
    # What the backward pass needs of a convolution: its input, two bytes a number.
    assert rows[0].split()[3:7][:3] == ["32", "0.000", "0.0"]


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def test_from_python(capsys: pytest.CaptureFixture[str]) -> None:
    conv = nn.Conv2d(3, 8, 1).eval()
    inputs = [torch.randn(1, 3, 8, 8), torch.randn(1, 4, 8, 8), torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)]
    costs = bw.profile(inputs, [conv, swish], n=1, device="cpu")
    first, of_function, failed, _, half, _ = costs
    assert failed is None  # four channels; the others go on
    assert first is not None
    assert of_function is not None
    assert half is not None
    assert (first.num_parameters, of_function.num_parameters) == (32, 0)
    assert first.gflops == pytest.approx(2 * 64 * 24 / 1e9)
    assert of_function.backward is not None
    assert of_function.out_shape == ((1, 3, 8, 8),)
    assert half.memory == 2 * 3 * 16 * 2
    assert (conv.weight.dtype, conv.training) == (torch.float32, False)  # a copy was measured
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cpu, float32, bfloat16, 1 repeats"
    assert [line.split()[0] for line in lines[2:]] == ["Conv2d", "swish"] * 3
    assert len(bw.profile(inputs[0], swish, n=1, device="cpu")) == 1
    for wrong, passes in ((inputs, 0), ((1, 3, 8, 8), 1), (3, 1), ([], 1)):
        with pytest.raises(UserError, match="takes a tensor or a list of them"):
            bw.profile(wrong, swish, n=passes)  # type: ignore[arg-type]


def test_a_matrix_product_of_a_function() -> None:
    assert measure(lambda x: x @ x, torch.randn(10, 10), repeats=1).gflops == pytest.approx(2e-6)


def test_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["bench", "op", "--model", "yolov5n", "--shape", "1", "3", "64", "64", "--repeats", "1", "--device", "cpu"]
    assert main(argv) == 0
    line = capsys.readouterr().out.splitlines()[3]
    assert line.split()[:3] == ["yolov5n", "1,872,157", "0.045"]
    assert line.endswith("1x3x64x64 -> 1x3x8x8x85, 1x3x4x4x85, 1x3x2x2x85")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["op"], "needs --op"),
        (["op", "--op", "ReLU()", "--shape", "0"], "shape (--shape): should be greater than or equal to 1"),
        (["op", "--op", "ReLU()", "--repeats", "0"], "repeats (--repeats): should be greater than or equal to 1"),
        (["op", "--op", "ReLU()", "--device", "tpu"], "device 'tpu' is not understood"),
        (["op", "--op", "ReLU()", "--device", "97"], "device '97' is not there"),
        (["op", "--op", "ReLu()"], "did you mean"),
        (["all"], "all is not one of op"),
    ],
)
def test_mistakes(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *argv]) == 2
    assert says in capsys.readouterr().err


def test_modules_of_torch_and_ours() -> None:
    conv = build_module("Conv2d(8, 16, 3, padding=1, bias=False)")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.in_channels, conv.out_channels, conv.padding, conv.bias) == (8, 16, (1, 1), None)
    assert isinstance(build_module(" torch.nn.MaxPool2d((2, 2)) "), nn.MaxPool2d)
    block = build_module("C3(8, 8, 2, False)")
    assert isinstance(block, C3)
    assert isinstance(block.cv1.act, nn.SiLU)
    ours = build_module("Conv(3, 8, 6, 2, 2, activation=LeakyReLU(0.1))")
    assert isinstance(ours, Conv)
    assert isinstance(ours.act, nn.LeakyReLU)


def test_modules_inside_modules() -> None:
    module = build_module("Sequential(Conv2d(3, 4, 1), nn.Sequential(ReLU(), Flatten()))")
    assert module(torch.zeros(2, 3, 5, 5)).shape == (2, 100)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Conv2d(3, 4", "cannot read the module"),
        ("Conv2d", "no module with arguments"),
        ("3 + 4", "no module with arguments"),
        ("Konv2d(3, 4, 1)", "has a module Konv2d; did you mean Conv2d"),
        ("Conv2d(3, x, 1)", "x is no plain value"),
        ("Conv2d(*[3, 4, 1])", "not unpacked"),
        ("Conv2d(**{'a': 1})", "not unpacked"),
        ("Conv2d(3, 4)", "cannot be built: .*kernel_size"),
        ("Conv2d(3, 4, 1, groups=2)", "cannot be built: in_channels must be divisible"),
        ("os.system('x')", "is no name of a module"),
        ("__import__('os')", "has a module __import__"),
        ("Parameter(3)", "has a module Parameter"),
        ("nn.functional.relu(3)", "is no name of a module"),
        ("(lambda: 3)()", "is no name of a module"),
        ("Conv2d(3, 4, __import__('os'))", "has a module __import__"),
        ("[" * 5000, "cannot read the module"),
    ],
)
def test_anything_else_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        build_module(text)
    assert "\n" not in str(error.value)


def test_nothing_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(UserError):
        build_module(f"Conv2d(3, open({str(mark)!r}, 'w'), 1)")
    assert not mark.exists()
