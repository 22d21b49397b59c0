"""`boxwright check` and `boxwright convert nuscenes` on a small root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boxwright.cli.main import main
from tests.unit.nuscenes.small_root import VERSION, tables, write_root


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    return write_root(tmp_path / "root", tables())


def test_check_says_what_a_version_has(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(root), "--version", VERSION]) == 0
    said = capsys.readouterr().out
    assert "no annotation is a bus: nothing can be learnt or measured of this class" in said
    assert "no annotation is a car" not in said
    assert "problems: 8 class without boxes" in said


def test_check_names_every_missing_and_damaged_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "samples/CAM_BACK/scene-0061-1-CAM_BACK.jpg").unlink()
    (root / "sweeps/RADAR_FRONT/scene-0103-2-RADAR_FRONT-sweep.pcd").unlink()
    cut = root / "samples/RADAR_FRONT/scene-0103-0-RADAR_FRONT.pcd"
    cut.write_bytes(cut.read_bytes()[:-30])
    broken = root / "samples/CAM_FRONT/scene-0103-0-CAM_FRONT.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    (root / VERSION / "log.json").unlink()
    assert main(["check", str(root)]) == 1
    said = capsys.readouterr().out
    assert "scene-0061-1-CAM_BACK.jpg: this image is missing" in said
    assert "scene-0103-2-RADAR_FRONT-sweep.pcd: this radar sweep is missing" in said
    assert "scene-0103-0-RADAR_FRONT.pcd: is cut off: it should have 2 points and has 1" in said
    assert f"{broken}: " in said
    assert "log.json: this table is missing" in said


def test_missing_files_may_be_allowed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (root / "sweeps").rglob("*.pcd"):
        file.unlink()
    for file in (root / "samples/CAM_BACK").iterdir():
        file.unlink()
    assert main(["check", str(root)]) == 1
    assert main(["check", str(root), "--allow-missing"]) == 0
    assert "20 missing radar sweep, 8 class without boxes, 6 missing image" in capsys.readouterr().out


def test_many_missing_files_of_a_folder_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_root(tmp_path / "root", tables(samples=15), blobs=False)
    assert main(["check", str(tmp_path / "root")]) == 1
    said = capsys.readouterr().out
    assert said.count("CAM_BACK.jpg: this image is missing") == 20
    assert "samples/CAM_BACK: 10 more images of this folder are missing" in said
    assert "problems: 290 missing radar sweep, 180 missing image" in said


def test_a_sample_without_radar_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tables()
    made["sample_data"] = [record for record in made["sample_data"] if "0061-1-RADAR" not in record["token"]]
    for record in made["sample_data"]:
        record["prev"] = ""
    write_root(tmp_path / "root", made)
    assert main(["check", str(tmp_path / "root")]) == 0
    said = capsys.readouterr().out
    assert "1 key frames have no radar, which leaves their maps empty; the first is scene-0061-1" in said


def test_several_versions_want_a_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_root(root, tables(), version="v1.0-trainval", blobs=False)
    assert main(["check", str(root)]) == 2
    assert f"name one with --version ({VERSION}, v1.0-trainval)" in capsys.readouterr().err
    assert main(["check", str(root), "--version", "v1.0-test"]) == 2
    assert f"has no version v1.0-test; there are {VERSION}, v1.0-trainval" in capsys.readouterr().err


def test_convert_writes_every_split(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "nuscenes", str(root), str(tmp_path / "out"), "--sweeps", "2"]) == 0
    folder = tmp_path / "out/annotations_2sweeps"
    assert sorted(file.name for file in folder.iterdir()) == ["mini_train.json", "mini_val.json"]
    written = json.loads((folder / "mini_val.json").read_text())
    assert len(written["images"]) == 18
    assert [len(image["radar_pc"][0]) for image in written["images"][:3]] == [6, 12, 12]
    assert "mini_val.json: 18 images, " in capsys.readouterr().out
    assert main(["convert", "nuscenes", str(root), str(tmp_path / "out"), "--sweeps", "0"]) == 2
    assert "sweeps (--sweeps): should be greater than or equal to 1, got '0'" in capsys.readouterr().err


def test_convert_after_a_partial_download(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "samples/CAM_BACK/scene-0061-1-CAM_BACK.jpg").unlink()
    assert main(["convert", "nuscenes", str(root), str(tmp_path)]) == 2
    assert "scene-0061-1-CAM_BACK.jpg is missing" in capsys.readouterr().err
    assert not (tmp_path / "annotations_3sweeps/mini_train.json").exists()
    assert main(["convert", "nuscenes", str(root), str(tmp_path), "--allow-missing"]) == 0
    assert len(json.loads((tmp_path / "annotations_3sweeps/mini_train.json").read_text())["images"]) == 17


def test_convert_into_a_place_that_is_no_folder(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["convert", "nuscenes", str(root), str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("cannot write") == 1
    assert (tmp_path / "file").read_text() == "in the way"
