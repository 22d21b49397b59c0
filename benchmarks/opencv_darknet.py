"""Run Darknet networks through OpenCV 4's DNN module, for tests/parity/test_opencv.py.

It needs opencv-python-headless 4.x (OpenCV 5 reads no Darknet files) and NumPy, nothing of Boxwright: it runs in an
environment of its own. `python benchmarks/opencv_darknet.py FOLDER` reads every `NAME.cfg`, `NAME.weights` and
`NAME.npy`, (1, C, H, W) in 0..1, and writes `NAME.out.npz`: the rows of each [yolo] section, as level0, level1 ...
"""

import sys
from pathlib import Path

import cv2
import numpy as np


def main(folder: Path) -> None:
    """Compute all networks of a folder."""
    for cfg in sorted(folder.glob("*.cfg")):
        network = cv2.dnn.readNetFromDarknet(str(cfg), str(cfg.with_suffix(".weights")))
        network.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        network.setInput(np.load(cfg.with_suffix(".npy")))
        # In the order of the cfg, which getUnconnectedOutLayersNames does not promise: yolo_82, yolo_94, yolo_106.
        names = sorted(network.getUnconnectedOutLayersNames(), key=lambda name: int(name.rpartition("_")[2]))
        np.savez(cfg.with_suffix(".out.npz"), *network.forward(names))
        print(cfg.stem, cv2.__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
