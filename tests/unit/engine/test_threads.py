"""One core is left to the loader, unless the user says how many threads there are."""

from __future__ import annotations

import pytest
import torch

from boxwright.engine.device import one_core_left


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def threads_inside(device: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with one_core_left(torch.device(device)):
        pass
    return asked


@pytest.mark.usefixtures("three_threads")
def test_the_cpu_trains_on_all_cores_but_one_and_gets_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_inside("cpu", monkeypatch) == [2, 3]


@pytest.mark.usefixtures("three_threads")
def test_a_gpu_and_a_number_of_the_user_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_inside("cuda", monkeypatch) == [3]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_inside("cpu", monkeypatch) == [3]
