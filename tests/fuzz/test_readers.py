"""Damaged files of every kind: told in one sentence or read, in bounded time and memory, and nothing is executed."""

import logging
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.fuzz.readers import Reader, readers, run

INPUTS = 300


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Path, dict[str, Reader]]]:
    logging.disable()
    folder = tmp_path_factory.mktemp("fuzz")
    yield folder, {reader.name: reader for reader in readers(folder)}
    logging.disable(logging.NOTSET)


NAMES = (
    *("data yaml", "hyper-parameters", "settings", "yaml", "run yaml", "model yaml", "cfg", "Darknet data", "names"),
    *(
        "labels",
        "list of sources",
        "VOC xml",
        "COCO json",
        "csv",
        "images",
        "tar shard",
        "exported metadata",
        "nuScenes table",
    ),
    *("submission", "radar", "calibration", "checkpoint", "run to resume", "pickle", "safetensors", "Darknet weights"),
)


def test_every_reader_is_here(every: tuple[Path, dict[str, Reader]]) -> None:
    assert tuple(every[1]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_told_in_one_sentence(
    name: str, every: tuple[Path, dict[str, Reader]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, reader = every[0], every[1][name]
    monkeypatch.chdir(folder)
    for good in reader.good:  # else all that follows would prove nothing
        (folder / reader.file).write_bytes(good)
        reader.read(folder / reader.file)
    found = run(reader, folder, INPUTS)
    assert not found.faults, "\n".join(found.faults[:5])
    assert found.told
