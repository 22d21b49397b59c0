"""Radar of nuScenes against golden sweeps: the .pcd reader, the state filters and the accumulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.nuscenes.geometry import inverses, transforms
from boxwright.nuscenes.radar import accumulate, read_radar
from tests.golden import golden_cases, nuscenes_tiny, read_case

FILES = golden_cases("", "radar_accumulation.json", family="centerfusion")


@pytest.mark.parametrize("file", FILES)
def test_sweeps_are_read_and_filtered(file: Path) -> None:
    arrays, golden = read_case(file)
    for case in golden["cases"].values():
        for sweep in case["sweeps"]:
            path = nuscenes_tiny(file.parent) / sweep["file"]
            raw, filtered = read_radar(path, None), read_radar(path)
            np.testing.assert_array_equal(raw, arrays[f"{sweep['key']}/raw"])
            np.testing.assert_array_equal(filtered, arrays[f"{sweep['key']}/filtered"])
            assert (raw.shape[1], filtered.shape[1]) == (sweep["n_raw"], sweep["n_after_state_filters"])


@pytest.mark.parametrize("file", FILES)
def test_sweeps_are_gathered_in_the_frame_of_the_camera(file: Path) -> None:
    arrays, golden = read_case(file)
    for name, case in golden["cases"].items():
        here = [case["ref"][part] for part in ("pose", "calibrated_sensor")]
        cam_from_global = inverses(_transform(here[0]) @ _transform(here[1]))
        to_cam = [
            cam_from_global @ _transform(sweep["pose"]) @ _transform(sweep["calibrated_sensor"])
            for sweep in case["sweeps"]
        ]
        found = accumulate([arrays[f"{sweep['key']}/filtered"] for sweep in case["sweeps"]], np.stack(to_cam))
        expected = arrays[f"{name}/accumulated__f64"]
        assert found.shape == expected.shape == (18, case["n_accumulated"])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def _transform(record: dict[str, list[float]]) -> np.ndarray:
    return transforms(np.array(record["translation"]), np.array(record["rotation"]))


def test_no_sweeps_give_an_empty_map() -> None:
    assert accumulate([], np.zeros((0, 4, 4))).shape == (18, 0)
    assert accumulate([np.zeros((18, 0), np.float32)], np.eye(4)[None]).shape == (18, 0)
