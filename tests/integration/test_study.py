"""`val --task study`: metric and time over image sizes."""

import csv
from pathlib import Path

import pytest

import boxwright as bw
from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.yolo.verbs import val as verb
from boxwright.yolo.zoo import load_spec
from tests.integration.small_runs import write_world
from tests.integration.test_export import SCORE, sure_network, write_checkpoint


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, Path]:
    data, network = write_world(tmp_path, num_images=2)
    return data, write_checkpoint(tmp_path / "best.pt", sure_network(load_spec(str(network), 2)))


def test_a_row_for_each_size(
    world: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, weights = world
    monkeypatch.setattr(verb, "STUDY_SIZES", (64, 96))
    project = weights.parent / "runs"
    words = ["--data", str(data), "--workers", "0", "--device", "cpu", "--project", str(project)]
    assert main(["val", "--task", "study", "--weights", str(weights), "--img", "640", *words]) == 0
    printed = capsys.readouterr().out
    assert "--imgsz has no effect" in printed
    with (project / "exp" / "study.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["imgsz"] for row in rows] == ["64", "96"]
    assert max(map(len, printed.splitlines()[-4:-1])) <= 80
    assert (project / "exp" / "study.png").stat().st_size > 1000
    alone = bw.val(weights, data, imgsz=96, workers=0, noplots=True, project=str(project))
    assert float(rows[1]["mAP50-95"]) == pytest.approx(alone.map, rel=1e-4)


def test_a_file_of_one_size_cannot_be_studied(world: tuple[Path, Path]) -> None:
    data, weights = world
    (file,) = bw.export(weights, include=["torchscript"], imgsz=64, static=True, conf_thres=SCORE, data=str(data))
    with pytest.raises(UserError, match="takes images of one size only"):
        bw.val(file, data, task="study", project=str(weights.parent / "runs"))
    assert not (weights.parent / "runs").exists()
