"""Time of one image through yolov5n at 640 px: network, decode and NMS, in four variants.

    fp32    fp32, NCHW, batch-norm folded: the baseline
    last    the same in channels_last
    bf16    channels_last, bf16 autocast (slow where the CPU has no bf16 units)
    unfused fp32, channels_last, batch-norm not folded

All in one process with the malloc setting of the command line, alternating; medians of CPU time and wall time.

    python benchmarks/latency.py [--size 640] [--rounds 20] [--threads 1] [--model yolov5n]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

from boxwright.engine.allocator import keep_large_buffers

keep_large_buffers()

import torch  # noqa: E402  # the malloc setting comes before torch allocates

from boxwright.engine.precision import Policy  # noqa: E402
from boxwright.models.build import build_model  # noqa: E402
from boxwright.models.fuse import fuse  # noqa: E402
from boxwright.models.zoo import load_spec  # noqa: E402
from boxwright.postprocess.yolo import YoloPostprocess  # noqa: E402

VARIANTS = {
    "fp32": (torch.contiguous_format, "fp32", True),
    "last": (torch.channels_last, "fp32", True),
    "bf16": (torch.channels_last, "bf16", True),
    "unfused": (torch.channels_last, "fp32", False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="yolov5n")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = {name: make_run(options.model, options.size, *variant) for name, variant in VARIANTS.items()}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    wall: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 2):
        for name, run in runs.items():
            start_cpu, start_wall = time.process_time(), time.perf_counter()
            run()
            if number >= 2:  # the first two warm up
                cpu[name].append(time.process_time() - start_cpu)
                wall[name].append(time.perf_counter() - start_wall)
    print(f"latency, {options.model}, one image of {options.size} px, {options.threads} thread(s)")
    print(f"{'variant':10}{'CPU ms':>9}{'wall ms':>9}{'CPU ratio':>11}{'wall ratio':>12}")
    base_cpu, base_wall = median(cpu["fp32"]), median(wall["fp32"])
    for name in runs:
        own_cpu, own_wall = median(cpu[name]), median(wall[name])
        ratios = f"{base_cpu / own_cpu:11.2f}{base_wall / own_wall:12.2f}"
        print(f"{name:10}{1000 * own_cpu:9.1f}{1000 * own_wall:9.1f}{ratios}")


def make_run(name: str, size: int, layout: torch.memory_format, precision: str, fused: bool) -> Callable[[], None]:
    """One variant, ready to be called."""
    torch.manual_seed(0)
    model = build_model(load_spec(name, 80)).eval()
    if fused:
        model = fuse(model)
    model = model.to(memory_format=layout)
    policy = Policy(precision, torch.device("cpu"))  # type: ignore[arg-type]
    postprocess = YoloPostprocess(score_threshold=0.25)
    image = torch.rand(1, 3, size, size).to(memory_format=layout)

    def run() -> None:
        with torch.inference_mode(), policy.autocast():
            raw = model(image)
        with torch.inference_mode():
            postprocess(model.decode(raw))

    return run


if __name__ == "__main__":
    main()
