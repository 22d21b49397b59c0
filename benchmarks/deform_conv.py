"""How much faster the deformable convolution for CPUs is than torchvision's operator, with equal results.

3 x 3, modulated, at 112 x 200 cells (the grid of an 800 x 448 image); offsets of about a cell, as trained networks have
them; forward and backward, also of offsets and masks; CPU time, runs alternating, medians. The ordinary convolution
stands beside them: what a deformable one costs on top.

    python benchmarks/deform_conv.py [--rounds 5] [--channels 64 16] [--batch 1] [--dtype float32] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from boxwright.centerfusion.deform_conv import deform_conv
from boxwright.machine import keep_large_buffers

HEIGHT, WIDTH = 112, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_large_buffers()
    size = f"{options.batch} x C x {HEIGHT} x {WIDTH}"
    print(f"deformable 3x3 convolution, {size}, {options.dtype}, {options.threads} thread(s)")
    print(f"{'C':>4}{'torchvision ms':>16}{'rows ms':>10}{'ratio':>8}{'plain conv ms':>15}{'largest difference':>20}")
    for channels in options.channels:
        compare(options.batch, channels, getattr(torch, options.dtype), options.rounds)


def compare(batch: int, channels: int, dtype: torch.dtype, rounds: int) -> None:
    inputs = draw(batch, channels, dtype)
    sides: dict[str, Callable[[], list[Tensor]]] = {
        "torchvision": lambda: step(lambda *t: deform_conv(*t, implementation="torchvision"), inputs),
        "rows": lambda: step(lambda *t: deform_conv(*t, implementation="rows"), inputs),
        "plain": lambda: step(lambda x, _offset, _mask, w, b: conv2d(x, w, b, padding=1), inputs),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, list[Tensor]] = {name: side() for name, side in sides.items()}  # also warms up
    for _ in range(rounds):
        for name, side in sides.items():
            start = time.process_time()
            results[name] = side()
            times[name].append(1000 * (time.process_time() - start))
    pairs = zip(results["torchvision"], results["rows"], strict=True)
    difference = max(float((a - b).abs().max() / (1 + a.abs().max())) for a, b in pairs)
    theirs, ours, plain = (median(times[name]) for name in sides)
    print(f"{channels:4}{theirs:16.1f}{ours:10.1f}{theirs / ours:8.1f}{plain:15.1f}{difference:20.1e}")


def step(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = function(*leaves)
    out.backward(torch.full_like(out, 1e-2))
    return [out.detach(), *(t.grad for t in leaves if t.grad is not None)]


def draw(batch: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(batch, channels, HEIGHT, WIDTH).to(memory_format=torch.channels_last)
    offset, mask = normal(batch, 18, HEIGHT, WIDTH), normal(batch, 9, HEIGHT, WIDTH).sigmoid()
    weight, bias = normal(channels, channels, 3, 3) / (9 * channels) ** 0.5, normal(channels)
    return [t.to(dtype) for t in (x, offset, mask, weight, bias)]


if __name__ == "__main__":
    main()
