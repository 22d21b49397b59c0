"""Class and image weights against the recorded ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.yolo.loader import class_weights, image_weights
from tests.golden import golden_cases, read_case


@pytest.mark.parametrize("case", golden_cases("dataset", "weights_*.npz"))
def test_weights_equal_the_published_ones(case: Path) -> None:
    arrays, meta = read_case(case)
    assert meta["cases"]
    for entry in meta["cases"]:
        found = {key.partition("_")[2]: value for key, value in arrays.items() if key.startswith(f"c{entry['id']}_")}
        classes, images, count = found["class"], found["image_index"], entry["nc"]
        weights = class_weights(classes, count)
        np.testing.assert_allclose(weights, found["out_class_weights"], rtol=1e-5)
        np.testing.assert_allclose(weights * count, found["out_class_weights_times_nc"], rtol=1e-5)
        by_maps = class_weights(classes, count, found["maps"])
        np.testing.assert_allclose(by_maps, found["out_epoch_class_weights"], rtol=1e-5)
        for chosen, key in ((by_maps, "out_image_weights"), (np.ones(count), "out_image_weights_unit")):
            result = image_weights(classes, images, entry["images"], chosen)
            np.testing.assert_allclose(result, found[key], rtol=1e-5, atol=1e-9)


def test_no_label_at_all() -> None:
    empty = np.zeros(0, np.int64)
    np.testing.assert_allclose(class_weights(empty, 4), 0.25)
    assert image_weights(empty, empty, 3, np.ones(4)).tolist() == [0, 0, 0]
