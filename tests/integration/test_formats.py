"""`bench formats`: a row for every form of a checkpoint, of those that cannot run here with the reason."""

import csv
from pathlib import Path

import pytest

from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.yolo.settings import FormatsConfig
from boxwright.yolo.verbs import formats
from boxwright.yolo.zoo import load_spec
from tests.integration.small_runs import write_world
from tests.integration.test_export import sure_network, write_checkpoint


def test_a_row_for_each_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, network = write_world(tmp_path, num_images=2)
    weights = write_checkpoint(tmp_path / "best.pt", sure_network(load_spec(str(network), 2)))
    chosen = {name: formats.FORMS[name] for name in ("PyTorch", "PyTorch, half", "TorchScript")}
    monkeypatch.setattr(formats, "FORMS", chosen | {"NCNN, int8": ("ncnn", "int8")})
    words = ["--weights", str(weights), "--data", str(data), "--imgsz", "64", "--workers", "0", "--device", "cpu"]
    words += ["--images", "1", "--repeats", "1", "--project", str(tmp_path / "runs")]
    assert main(["bench", "formats", *words]) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "runs" / "exp"
    with (folder / "formats.csv").open(encoding="utf-8") as file:
        rows = {row["form"]: row for row in csv.DictReader(file)}
    assert list(rows) == [*chosen, "NCNN, int8"]
    assert "leave out ncnn" in rows["NCNN, int8"]["reason"]
    assert rows["NCNN, int8"]["ms"] == ""
    assert "detections the same" in rows["TorchScript"]["agreement"]
    assert float(rows["TorchScript"]["mAP50"]) == pytest.approx(float(rows["PyTorch"]["mAP50"]), abs=1e-3)
    assert all(float(rows[name]["ms"]) > 0 and float(rows[name]["MB"]) > 0 for name in chosen)
    assert all(name in printed for name in rows)
    assert max(map(len, printed[printed.index("mAP50") :].partition("results in")[0].splitlines())) < 80
    assert (folder / "exported" / "best.torchscript").is_file()
    assert (folder / "formats.png").stat().st_size > 1000


def test_mistakes() -> None:
    with pytest.raises(UserError, match="needs --data"):
        formats.bench_formats(FormatsConfig(weights="best.pt"))
    with pytest.raises(UserError, match="starts from a checkpoint"):
        formats.bench_formats(FormatsConfig(weights="best.onnx", data="d.yaml"))
