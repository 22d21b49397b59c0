"""One folder and one line add a system: the ordinary verbs train, resume, validate and export it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import boxwright as bw
from boxwright.cli.main import main
from boxwright.errors import UserError
from boxwright.systems import SYSTEMS


@pytest.fixture(autouse=True)
def _one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "toy", "tests.toy_system.system")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, and one bright quarter each."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 96)
    images = generator.normal(0, 0.3, (96, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[0, row : row + 4, column : column + 4] += 1
    file = tmp_path_factory.mktemp("toy") / "quarters.npz"
    np.savez(file, images=images, labels=labels)
    return file


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_command_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--project", str(tmp_path), "--device", "cpu"]
    assert main(["train", "--model", "toy", "--data", str(data), *folder, "--name", "run", "--epochs", "4"]) == 0
    last = tmp_path / "run" / "weights" / "last.pt"
    assert "accuracy" in (tmp_path / "run" / "results.csv").read_text().splitlines()[0]
    capsys.readouterr()
    assert main(["val", "--weights", str(last), "--data", str(data)]) == 0
    assert float(capsys.readouterr().out.split()[-1]) > 0.9
    assert main(["export", "--weights", str(last)]) == 0
    assert last.with_suffix(".torchscript").is_file()
    # The flags of a system are found by what a command names, here the data alone.
    assert main(["train", "--data", str(data), "--channels", "3", "--quarters"]) == 2
    assert "there are always four" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--model", "toy", "--help"])
    assert "--channels" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "boxwright train --model toy --help" in capsys.readouterr().out


def test_python_and_a_run_that_was_stopped(data: Path, tmp_path: Path) -> None:
    """A run that is resumed after its second epoch ends with the bits of one that never stopped."""
    optim = {"schedule": "step"}  # whose rates do not depend on the length of the run
    settings = {"model": "toy", "project": tmp_path, "device": "cpu", "optim": optim}
    whole = bw.train(data, epochs=3, name="whole", **settings)
    stopped = bw.train(data, epochs=2, name="stopped", **settings)
    assert bw.train(resume=stopped, epochs=3) == stopped
    expected, found = (tensors(run / "weights" / "last.pt") for run in (whole, stopped))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert bw.val(whole / "weights" / "best.pt", data) > 0.9  # type: ignore[operator]
    (file,) = bw.export(whole / "weights" / "best.pt")
    assert file.suffix == ".torchscript"
    tuned = bw.train(data, weights=whole / "weights" / "best.pt", epochs=1, name="tuned", project=tmp_path)
    assert (tuned / "weights" / "best.pt").is_file()


def test_a_verb_that_it_has_not(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="toy has no verb predict; it has train, val, export"):
        bw.predict(source="x.jpg", model="toy")
    with pytest.raises(UserError, match=r"no such setting.*did you mean channels"):
        bw.train(data, model="toy", chanels=3)
