"""How much faster a CPU training step of CenterFusion is than that of the published network.

One step is: forward, losses, backward, Adam step; full width, 2 x 448 x 800, 20 objects an image, one thread. Sides,
each in a process of its own, since the malloc setting holds for a whole process:

    published  NCHW, torchvision's deformable convolution (in fp32, since it knows no bf16), every gradient of the heads
               in full, PyTorch's Adam, glibc's default malloc
    boxwright  what `train` does

The processes alternate for `--rounds` rounds; the table gives medians of CPU time, and their ratio.

    python benchmarks/fusion_step.py [--precision fp32 bf16] [--rounds 3] [--steps 2] [--size 448 800] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from boxwright.centerfusion.network import CenterFusion
    from boxwright.centerfusion.structures import Targets3d

SIDES = ("published", "boxwright")
BATCH, OBJECTS, SLOTS = 2, 20, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a process, after one that warms up")
    parser.add_argument("--size", type=int, nargs=2, default=[448, 800])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options)))
        return
    height, width = options.size
    print(f"training step, {BATCH} x {height} x {width}, {options.threads} thread(s), {options.rounds} rounds, CPU s")
    print(f"{'':6}{'published':>11}{'boxwright':>11}{'ratio':>8}")
    for precision in options.precision:
        times: dict[str, list[float]] = {side: [] for side in SIDES}
        for _ in range(options.rounds):
            for side in SIDES:
                times[side] += run_child(side, precision, options)
        theirs, ours = (median(times[side]) for side in SIDES)
        print(f"{precision:6}{theirs:11.2f}{ours:11.2f}{theirs / ours:8.2f}")


def run_child(side: str, precision: str, options: argparse.Namespace) -> list[float]:
    arguments = ["--child", side, "--precision", precision, "--steps", str(options.steps)]
    arguments += ["--size", *map(str, options.size), "--threads", str(options.threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, options: argparse.Namespace) -> list[float]:
    """Time steps of one side in this process."""
    if side == "boxwright":
        from boxwright.machine import keep_large_buffers  # before torch allocates

        keep_large_buffers()
    import torch

    torch.set_num_threads(options.threads)
    step = make_step(side, options.precision[0], *options.size)
    times: list[float] = []
    for number in range(options.steps + 1):
        start = time.process_time()
        step()
        if number:
            times.append(time.process_time() - start)
    return times


def make_step(side: str, precision: str, height: int, width: int) -> Callable[[], None]:
    """Build network, losses, optimizer and a batch; return the function that does one step."""
    import torch

    from boxwright.centerfusion.losses import CenterLoss
    from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
    from boxwright.centerfusion.settings import FusionOptimConfig
    from boxwright.engine.device import resolve
    from boxwright.engine.optim import make_optimizer

    torch.manual_seed(0)
    policy, loss = resolve("bf16" if precision == "bf16" else "fp32", torch.device("cpu")), CenterLoss()
    layout = torch.contiguous_format if side == "published" else torch.channels_last
    model = CenterFusion(CenterFusionSpec()).to(memory_format=layout).train()  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(model, FusionOptimConfig(), weight_decay=0.0, decays_everything=True)
    if side == "published":
        as_published(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=2.5e-4)
    images = torch.randn(BATCH, 3, height, width).contiguous(memory_format=layout)
    association = torch.rand(BATCH, 3, height // 4, width // 4)
    targets = make_targets(height // 4, width // 4)

    def step() -> None:
        with policy.autocast():
            total, _ = loss(model(images, association=association), targets)
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def as_published(model: CenterFusion) -> None:
    """Let a network compute by the published operators."""
    from functools import partial

    from torch import nn

    from boxwright.centerfusion import dla

    dla.deform_conv = partial(dla.deform_conv, implementation="torchvision")
    for name in (*model.first_heads, *model.second_heads):
        setattr(model, name, nn.Sequential(*model.get_submodule(name).children()))


def make_targets(height: int, width: int) -> Targets3d[Tensor]:
    """Draw objects, padded to the loader's number of slots."""
    import torch

    from boxwright.centerfusion.structures import Targets3d

    shape = (BATCH, SLOTS)
    valid = (torch.arange(SLOTS) < OBJECTS).expand(shape)
    return Targets3d(
        heatmap=torch.rand(BATCH, 10, height, width) ** 8,
        cell=torch.randint(0, height * width, shape) * valid,
        label=torch.randint(0, 10, shape) * valid,
        valid=valid,
        boxes=torch.rand(*shape, 4),
        offset=torch.rand(*shape, 2),
        size=10 * torch.rand(*shape, 2),
        depth=5 + 40 * torch.rand(*shape, 1),
        depth_valid=valid[..., None],
        dims=1 + torch.rand(*shape, 3),
        amodel_offset=torch.rand(*shape, 2),
        velocity=torch.randn(*shape, 3),
        velocity_valid=valid[..., None].expand(*shape, 3),
        attributes=torch.zeros(*shape, 8),
        attributes_valid=valid[..., None].expand(*shape, 8),
        rot_bins=torch.randint(0, 2, (*shape, 2)),
        rot_residuals=torch.rand(*shape, 2),
        rot_valid=valid,
        annotation_depth=5 + 40 * torch.rand(*shape),
        alpha=torch.rand(*shape),
    )


if __name__ == "__main__":
    main()
