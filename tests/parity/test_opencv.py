"""The Darknet family against OpenCV 4's DNN module: every key and the five networks of YOLOv4, on random weights.

`opencv_darknet.json` holds what OpenCV 4.10 gave; a python with OpenCV 4 that BOXWRIGHT_OPENCV4 names is asked itself.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.parity.opencv_cases import CASES, RECORDED, VARIABLE, excerpt, random_network, rows_as_opencv, rows_of_opencv

CLOSE = 1e-4


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[list[float]]]:
    return json.loads(RECORDED.read_text())


@pytest.mark.parametrize("case", CASES)
def test_recorded(case: str, recorded: dict[str, list[list[float]]]) -> None:
    np.testing.assert_allclose(excerpt(rows_as_opencv(random_network(case))), recorded[case], rtol=0, atol=CLOSE)


def test_every_number(tmp_path: Path) -> None:
    if not os.environ.get(VARIABLE):
        pytest.skip(f"no OpenCV 4, which reads Darknet's files: name a python that has it in {VARIABLE}")
    for case, levels in rows_of_opencv(CASES, tmp_path).items():
        ours = rows_as_opencv(random_network(case))
        assert len(levels) == len(ours), case
        for expected, rows in zip(levels, ours, strict=True):
            np.testing.assert_allclose(rows, expected, rtol=0, atol=CLOSE, err_msg=case)
