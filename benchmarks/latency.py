"""Time of one image through yolov5n at 640 px: network, decode and NMS, in every form that `predict` can run.

    eager     PyTorch, fp32, NCHW, batch norms not folded: the baseline
    folded    PyTorch, fp32, channels_last, folded
    last      the same, each convolution and its activation in one call, packed weights: what `predict` takes
    bf16      the same in bf16 (slow where the CPU has no bf16 units): `predict --half`
    compile   "last" through torch.compile (needs a C++ compiler)
    onnx      exported, ONNX Runtime
    openvino  exported, OpenVINO

All in one process with the malloc setting of the command line, alternating; medians of CPU time and wall time.

    python benchmarks/latency.py [--size 640] [--rounds 20] [--threads 1] [--model yolov5n]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from boxwright.machine import keep_large_buffers

keep_large_buffers()

import torch  # noqa: E402  # the malloc setting comes before torch allocates

import boxwright as bw  # noqa: E402
from boxwright.checkpoints.native import save_checkpoint  # noqa: E402
from boxwright.yolo.detection import DetectionModel, Network  # noqa: E402
from boxwright.yolo.detector import Detector  # noqa: E402
from boxwright.yolo.head import decode_above  # noqa: E402
from boxwright.yolo.postprocess import YoloPostprocess  # noqa: E402
from boxwright.yolo.weights import ready  # noqa: E402
from boxwright.yolo.zoo import build_model, load_spec  # noqa: E402

Run = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="yolov5n")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(options.model, options.size, Path(folder))
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
    base_cpu, base_wall = median(cpu["eager"]), median(wall["eager"])
    for name in runs:
        own_cpu, own_wall = median(cpu[name]), median(wall[name])
        ratios = f"{base_cpu / own_cpu:11.2f}{base_wall / own_wall:12.2f}"
        print(f"{name:10}{1000 * own_cpu:9.1f}{1000 * own_wall:9.1f}{ratios}")


def make_runs(name: str, size: int, folder: Path) -> dict[str, Run]:
    """Every variant, ready to be called."""
    torch.manual_seed(0)
    model = build_model(load_spec(name, 80)).eval()
    weights = folder / "model.pt"
    about = {"spec": model.spec.to_mapping(), "names": list(model.names), "strides": list(model.strides)}
    save_checkpoint(weights, {"model": about, "state_dict": model.state_dict(), "ema": None})
    onnx, openvino = bw.export(weights, include=["onnx", "openvino"], imgsz=size)
    image = torch.rand(1, 3, size, size)
    last = image.to(memory_format=torch.channels_last)
    runs: dict[str, Run] = {"eager": make_run(model, image), "last": make_run(bw.load(weights).model, last)}
    runs["folded"] = make_run(ready(model, torch.device("cpu")), last)
    runs["bf16"] = make_run(bw.load(weights, half=True).model, last.bfloat16())
    try:
        runs["compile"] = make_run(compiled(bw.load(weights)), last)
        runs["compile"]()
    except Exception as error:  # torch's own exceptions; without a compiler the others can still be measured
        del runs["compile"]
        print(f"compile: left out ({str(error).splitlines()[0]})")
    return runs | {path.suffix[1:] or "openvino": make_run(bw.load(path).model, image) for path in (onnx, openvino)}


def compiled(detector: Detector) -> Network:
    """The network with a compiled forward; decoding stays as it is."""
    model = copy.deepcopy(detector.model)
    assert isinstance(model, DetectionModel)
    model.forward = torch.compile(model.forward)  # type: ignore[method-assign]
    return model


def make_run(network: Network, image: torch.Tensor) -> Run:
    postprocess = YoloPostprocess(score_threshold=0.25)

    @torch.inference_mode()
    def run() -> object:
        return postprocess(decode_above(network, network(image), postprocess.score_threshold))

    return run


if __name__ == "__main__":
    main()
