"""`boxwright convert synthetic`: the command line writes a nuScenes root, or says what is wrong and writes nothing."""

import json
from pathlib import Path

import pytest

from boxwright.cli.main import main

SMALL = ("--scenes", "2", "--key-frames", "2", "--width", "64", "--seed", "3")


def test_a_root_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made"
    assert main(["convert", "synthetic", "--format", "nuscenes", "--out", str(out), "--version", "v1.0-x", *SMALL]) == 0
    assert "2 scenes (train 1, val 1) of 2 key frames" in capsys.readouterr().out
    assert len(json.loads((out / "v1.0-x" / "sample.json").read_text(encoding="utf-8"))) == 4
    images = [record for record in json.loads((out / "v1.0-x" / "sample_data.json").read_text()) if record["width"]]
    assert {(record["width"], record["height"]) for record in images} == {(64, 36)}
    assert len(list((out / "samples").glob("CAM_*/*.jpg"))) == len(images) == 24


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--out", "OUT/new"], "needs --format nuscenes"),
        (["--format", "nuscenes"], "needs --out"),
        (["--format", "kitti", "--out", "OUT/new"], "should be '' or 'nuscenes', got 'kitti'"),
        (["OUT/new", "--format", "nuscenes"], "write --out"),
        (["--format", "nuscenes", "--out", "OUT/full"], "there already"),
        (["--format", "nuscenes", "--out", "OUT/file/sub"], "cannot be made"),
        (["--format", "nuscenes", "--out", "OUT/new", "--scenes", "0"], "scenes of 1 or more"),
        (["--format", "nuscenes", "--out", "OUT/new", "--shares", "0.5"], "--shares belongs to convert split"),
    ],
)
def test_mistakes(tmp_path: Path, argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("")
    (tmp_path / "file").write_text("")
    words = [word.replace("OUT", str(tmp_path)) for word in argv]
    assert main(["convert", "synthetic", *words]) == 2
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
