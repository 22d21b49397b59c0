"""How much faster the frustum association is than a loop over images and objects of the same semantics.

The loop does what is written in the spec, one object after the other, with tensor operations as published code has
them; a second one works on NumPy arrays and numbers, which are lighter. Both look up peaks and boxes by one call for
the batch. Inputs: 8 images of 112 x 200 cells, 10 classes, 100 objects an image of 2 to 60 cells, those beside a peak
included; 160 radar pillars an image as the loader paints them, half of them on objects.
One thread; CPU time of the process. In each round the loops run once and twice, the vectorised association ten times,
of which the first one finds caches cold ("its cold"); best of all; results have to be equal.

    python benchmarks/frustum.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from boxwright.centerfusion.frustum import FrustumOptions, associate
from boxwright.centerfusion.heads import decode_rotation

BATCH, CLASSES, HEIGHT, WIDTH, K = 8, 10, 112, 200, 100
PILLARS = 160
RUNS = {"loop": 1, "numpy": 2, "ours": 10}  # a round
FOCAL = 158.3  # cells
FRONT, LEFT = torch.tensor([1.0, 1, -1, -1]), torch.tensor([1.0, -1, -1, 1])  # sides of the corners of a box
Heads = dict[str, Tensor]
Association = Callable[[Heads, Tensor, Tensor, FrustumOptions], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    heads, radar, calibs = draw_scene(torch.Generator().manual_seed(0))
    cells = int((radar[:, 0] > 0).sum()) // BATCH
    print(
        f"frustum association of {BATCH} images, {HEIGHT} x {WIDTH}, {K} objects, {cells} radar cells each, one thread"
    )
    titles = ("mode", "loop ms", "numpy loop", "vectorised", "its cold", "ratio", "to numpy")
    print("".join(f"{title:>12}" for title in titles))
    for fixed in (False, True):
        options = FrustumOptions(fixed=fixed)
        ways: dict[str, Association] = {"loop": tensor_loop, "numpy": numpy_loop, "ours": associate}
        times: dict[str, list[list[float]]] = {name: [] for name in ways}
        results: dict[str, Tensor] = {}
        for _ in range(rounds):
            for name, way in ways.items():
                times[name].append([])
                for _ in range(RUNS[name]):
                    start = time.process_time()
                    results[name] = way(heads, radar, calibs, options)
                    times[name][-1].append(1000 * (time.process_time() - start))
        loop, light, ours = (min(min(runs) for runs in times[name]) for name in ways)
        cold = min(runs[0] for runs in times["ours"])
        equal = all(torch.equal(result, results["ours"]) for result in results.values())
        written = int((results["ours"][:, 0] > 0).sum()) // BATCH
        row = f"{'fixed' if fixed else 'faithful':>12}{loop:12.1f}{light:12.1f}{ours:12.2f}{cold:12.2f}"
        print(f"{row}{loop / ours:12.1f}{light / ours:12.1f}   equal: {equal}, {written} cells painted an image")


def draw_scene(generator: torch.Generator) -> tuple[Heads, Tensor, Tensor]:
    """Raw first heads, radar maps and camera matrices of a batch of street scenes."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    def draw(near: float, far: float, top: int, bottom: int) -> tuple[float, int, int]:
        return float(uniform(near, far, 1)), int(uniform(2, WIDTH - 2, 1)), int(uniform(top, bottom, 1))

    hm = uniform(-9, -5, BATCH, CLASSES, HEIGHT, WIDTH)
    depth = uniform(3, 60, BATCH, HEIGHT, WIDTH)
    wh = uniform(2, 6, BATCH, 2, HEIGHT, WIDTH)
    radar = torch.zeros(BATCH, 3, HEIGHT, WIDTH)
    for image in range(BATCH):
        pillars = [draw(5, 60, 40, HEIGHT - 2) for _ in range(PILLARS // 2)]
        for _ in range(40):  # objects, with the cells beside their peaks
            metres, x, y = draw(5, 60, 35, HEIGHT - 10)
            near = (slice(y - 1, y + 2), slice(x - 1, x + 2))
            hm[image, int(uniform(0, CLASSES, 1)), near[0], near[1]] = uniform(-4, 3, 3, 3)
            wh[image, :, near[0], near[1]] = uniform(0.5, 1.5, 2, 1, 1) * 240 / metres
            depth[image, near[0], near[1]] = metres * uniform(0.97, 1.03, 3, 3)
            pillars += [(metres, x, y), (1.01 * metres, x + 1, y)]
        for metres, x, y in sorted(pillars, reverse=True):  # near ones over far ones
            rows = slice(max(0, y - round(1.5 * FOCAL / metres)), y + 1)
            columns = slice(x, x + 1 + round(0.2 * FOCAL / metres))
            radar[image, 0, rows, columns] = metres
            radar[image, 1:, rows, columns] = uniform(-9, 9, 2, 1, 1)
    heads = {
        "hm": hm,
        "wh": wh,
        "dep": -depth[:, None].log(),
        "dim": uniform(0.5, 5, BATCH, 3, HEIGHT, WIDTH),
        "rot": uniform(-1, 1, BATCH, 8, HEIGHT, WIDTH),
    }
    calib = torch.tensor([[1266.4, 0, 816.3, 0], [0, 1266.4, 491.5, 0], [0, 0, 1, 0]])
    return heads, radar, calib.expand(BATCH, 3, 4)


def found(heads: Heads, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (B, K, 4), depths, dimensions (B, K, 3) and alpha (B, K) of the k best cells, per class and then all."""
    width = heads["hm"].shape[-1]
    scores, cells = heads["hm"].flatten(2).topk(k)
    best = scores.flatten(1).topk(k).indices
    cells = cells.flatten(1).gather(1, best)

    def at(head: Tensor) -> Tensor:
        return head.flatten(2).transpose(1, 2).gather(1, cells[..., None].expand(-1, -1, head.shape[1]))

    centers = torch.stack((cells % width, cells // width), -1) + 0.5
    half = at(heads["wh"]).clamp(min=0) / 2
    depth = 1 / (at(heads["dep"])[..., 0].sigmoid() + 1e-6) - 1
    return torch.cat((centers - half, centers + half), -1), depth, at(heads["dim"]), decode_rotation(at(heads["rot"]))


def tensor_loop(heads: Heads, radar: Tensor, calibs: Tensor, options: FrustumOptions) -> Tensor:
    """The association, one object after the other."""
    painted = torch.zeros_like(radar)
    for image, objects in enumerate(zip(*found(heads, K), strict=True)):
        calib = calibs[image]
        for box, depth, dims, alpha in zip(*objects, strict=True):
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            width, height = box[2] - box[0], box[3] - box[1]
            rotation = alpha + torch.atan2(x - calib[0, 2], calib[0, 0])
            along, across = dims[2] / 2 * FRONT, dims[1] / 2 * LEFT
            corners = rotation.cos() * across - rotation.sin() * along  # their z about the centre
            threshold = corners.max() if options.fixed else corners.max() - corners.min() / 2
            threshold = threshold + threshold * options.expansion_ratio
            rows = cut(torch.floor(box[1]), torch.ceil(box[3]) + 1, options)
            columns = cut(torch.floor(box[0]), torch.ceil(box[2]) + 1, options)
            region = radar[image, :, rows, columns]
            inside = (region[0] > 0) & (region[0] > depth - threshold) & (region[0] < depth + threshold)
            candidates = region[:, inside]
            if not candidates.shape[1]:
                continue
            values = candidates[:, candidates[0].argmin()].clone()
            if options.normalize_depth:
                values[0] /= options.max_depth
            reach_x, reach_y = options.window_ratio * width / 2, options.window_ratio * height / 2
            rows = cut(torch.trunc(y - reach_y), torch.trunc(y + reach_y) + 1, options)
            end = torch.trunc(x + reach_x) + (1 if options.fixed else 2)
            columns = cut(torch.trunc(x - reach_x), end, options)
            painted[image, :, rows, columns] = values[:, None, None]
    return painted


def numpy_loop(heads: Heads, radar: Tensor, calibs: Tensor, options: FrustumOptions) -> Tensor:
    """The same on NumPy arrays and numbers."""
    maps, result = radar.numpy(), np.zeros(radar.shape, np.float32)
    half = np.float32(2)
    front, left = FRONT.numpy(), LEFT.numpy()
    ratio = np.float32(options.window_ratio)
    for image, objects in enumerate(zip(*(array.numpy() for array in found(heads, K)), strict=True)):
        calib = calibs[image].numpy()
        for box, depth, dims, alpha in zip(*objects, strict=True):
            x, y = (box[0] + box[2]) / half, (box[1] + box[3]) / half
            reach_x, reach_y = ratio * (box[2] - box[0]) / half, ratio * (box[3] - box[1]) / half
            rotation = alpha + np.arctan2(x - calib[0, 2], calib[0, 0])
            corners = np.cos(rotation) * (dims[1] / half * left) - np.sin(rotation) * (dims[2] / half * front)
            threshold = corners.max() if options.fixed else corners.max() - corners.min() / half
            rows = cut(math.floor(box[1]), math.ceil(box[3]) + 1, options)
            columns = cut(math.floor(box[0]), math.ceil(box[2]) + 1, options)
            region = maps[image, 0, rows, columns]
            inside = (region > max(0, depth - threshold)) & (region < depth + threshold)
            if not inside.any():
                continue
            nearest = np.where(inside, region, np.inf).argmin()
            values = maps[image, :, rows, columns].reshape(3, -1)[:, nearest].copy()
            if options.normalize_depth:
                values[0] /= options.max_depth
            rows = cut(int(y - reach_y), int(y + reach_y) + 1, options)
            columns = cut(int(x - reach_x), int(x + reach_x) + (1 if options.fixed else 2), options)
            result[image, :, rows, columns] = values[:, None, None]
    return torch.from_numpy(result)


def cut(start: Tensor | float, stop: Tensor | float, options: FrustumOptions) -> slice:
    """As an array is sliced, negative numbers from the far end; cut at 0 if fixed."""
    first, last = int(start), int(stop)
    return slice(max(first, 0), max(last, 0)) if options.fixed else slice(first, last)


if __name__ == "__main__":
    main()
