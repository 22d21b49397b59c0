"""Darknet networks with random weights, and what OpenCV 4's DNN module computes of them.

BOXWRIGHT_OPENCV4 names a python that has opencv-python-headless 4.x, in an environment of its own.
`python -m tests.parity.opencv_cases` records its outputs into `opencv_darknet.json`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from boxwright.yolo.darknet import DarknetModel, write_darknet
from boxwright.yolo.darknet_cfg import DarknetSpec
from boxwright.yolo.zoo import load_spec

VARIABLE = "BOXWRIGHT_OPENCV4"
RECORDED = Path(__file__).with_name("opencv_darknet.json")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "opencv_darknet.py"
SIDE = 64
NAMES = ("yolov4", "yolov4-tiny", "yolov4-tiny-3l", "yolov4-csp", "yolov4x-mish")


def conv(filters: int, size: int = 3, activation: str = "leaky", more: str = "pad=1") -> str:
    return f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\nactivation={activation}\n{more}\n"


def cfg(*sections: str, activation: str = "linear", yolo: str = "", channels: int = 3) -> str:
    """A stem of stride 8, these sections, and a predictor of two anchors and two classes."""
    begin = f"[net]\nwidth={SIDE}\nheight={SIDE}\nchannels={channels}\n{conv(8, 8, more='stride=8')}"
    end = f"[convolutional]\nfilters=14\nsize=1\nactivation={activation}\n[yolo]\nmask=1,2\nnum=3\nclasses=2\n{yolo}\n"
    return begin + "".join(sections) + end + "anchors=10,13, 16,30, 33,23\n"


SMALL = {
    **{name: cfg(conv(8, 3, name)) for name in ("linear", "leaky", "relu", "mish", "swish", "logistic", "tanh")},
    "scale_x_y": cfg(yolo="scale_x_y=1.2"),
    "new_coords": cfg(activation="logistic", yolo="new_coords=1\nscale_x_y=2.0"),
    "new_coords_other_scale": cfg(activation="logistic", yolo="new_coords=1\nscale_x_y=1.3"),
    "first_group": cfg("[route]\nlayers=-1\ngroups=2\ngroup_id=0\n", conv(4, 1)),
    "second_group": cfg("[route]\nlayers=-1\ngroups=2\ngroup_id=1\n", conv(4, 1)),
    "third_of_four_groups": cfg("[route]\nlayers=-1\ngroups=4\ngroup_id=2\n", conv(4, 1)),
    "route": cfg(conv(4, 1), "[route]\nlayers=-1,-2\n", conv(4, 1)),
    "grouped_convolution": cfg(conv(8, 3, more="pad=1\ngroups=4")),
    "padding": cfg(conv(8, 5, more="padding=2")),
    **{f"maxpool_{size}": cfg(f"[maxpool]\nsize={size}\nstride=1\n") for size in (3, 4, 5, 6, 9, 13)},
    **{f"maxpool_{size}_by_2": cfg(f"[maxpool]\nsize={size}\nstride=2\n") for size in (2, 3, 4)},
    "maxpool_padding": cfg("[maxpool]\nsize=3\nstride=1\npadding=2\n"),
    "shortcut": cfg(conv(8), "[shortcut]\nfrom=-2\nactivation=linear\n"),
    "shortcut_activation": cfg(conv(8), "[shortcut]\nfrom=-2\nactivation=mish\n"),
    "shortcut_of_more_channels": cfg(conv(4), "[shortcut]\nfrom=-2\nactivation=linear\n"),
    "shortcut_of_fewer_channels": cfg(conv(16), "[shortcut]\nfrom=-2\nactivation=linear\n"),
    "one_channel": cfg(channels=1),
    "upsample": cfg(conv(8, 4, more="stride=4"), "[upsample]\nstride=4\n"),
}
CASES = (*SMALL, *NAMES)


def random_network(case: str) -> DarknetModel:
    """Weights that keep numbers near 1 through a hundred layers; the same every time."""
    model = DarknetModel(DarknetSpec.from_text(SMALL[case]) if case in SMALL else load_spec(case)).eval()
    rng = np.random.default_rng(list(case.encode()))

    def draw(low: float, high: float, like: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(rng.random(like.shape, np.float32) * np.float32(high - low) + np.float32(low))

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            bound = (2.4 if module.bias is None else 1.0) / module.weight[0].numel() ** 0.5
            module.weight.data = draw(-bound, bound, module.weight)
            if module.bias is not None:
                module.bias.data = draw(-1.5, 1.5, module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.data = draw(0.5, 0.9, module.weight)
            module.bias.data = draw(-0.2, 0.2, module.bias)
            module.running_mean.data = draw(-0.2, 0.2, module.running_mean)
            module.running_var.data = draw(0.5, 1.5, module.running_var)
    return model


def image(model: DarknetModel) -> NDArray[np.float32]:
    return np.random.default_rng(7).random((1, model.spec.input_channels, SIDE, SIDE), np.float32)


@torch.no_grad()
def rows_as_opencv(model: DarknetModel) -> list[NDArray[np.float32]]:
    """(H * W * A, 5 + C) a level: cxcywh as shares of the image, objectness, objectness times class score."""
    raw = model(torch.from_numpy(image(model)))
    levels: list[NDArray[np.float32]] = []
    for maps, rows in zip(raw, model.decode(raw)[0].split([m[0, ..., 0].numel() for m in raw]), strict=True):
        by_cell = rows.view(*maps.shape[1:]).permute(1, 2, 0, 3).flatten(0, 2).clone()
        by_cell[:, :4] /= SIDE
        by_cell[:, 5:] *= by_cell[:, 4:5]
        levels.append(by_cell.numpy())
    return levels


def rows_of_opencv(cases: Sequence[str], folder: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Write the networks of these cases as files, let OpenCV run them, and read what it gave."""
    for case in cases:
        model = random_network(case)
        write_darknet(folder / f"{case}.weights", model)
        # OpenCV suppresses boxes by itself, by keys of its own.
        text = model.spec.to_text().replace("[yolo]\n", "[yolo]\nthresh=0\nnms_threshold=0\n")
        (folder / f"{case}.cfg").write_text(text)
        np.save(folder / f"{case}.npy", image(model))
    run = [os.environ[VARIABLE], str(SCRIPT), str(folder)]
    subprocess.run(run, check=True, env={**os.environ, "PYTHONPATH": ""}, stdout=subprocess.DEVNULL)
    found: dict[str, list[NDArray[np.float32]]] = {}
    for case in cases:
        with np.load(folder / f"{case}.out.npz") as file:
            found[case] = [file[f"arr_{level}"] for level in range(len(file.files))]
    return found


def excerpt(levels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Up to 24 rows of each level, and of them boxes, objectness and two classes: little enough to be kept."""
    return np.concatenate([rows[:: max(len(rows) // 24, 1)][:24, :7] for rows in levels])


if __name__ == "__main__":
    given = rows_of_opencv(CASES, Path(sys.argv[1]))
    lines = [
        f'"{case}": {json.dumps(np.round(excerpt(levels).astype(float), 5).tolist())}' for case, levels in given.items()
    ]
    RECORDED.write_text("{" + ",\n".join(lines).replace(" ", "") + "}\n")
    print(f"wrote {RECORDED.name}, {RECORDED.stat().st_size} bytes")
