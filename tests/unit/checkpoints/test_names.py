"""The names of entries, looked for without unpickling."""

import zipfile
from pathlib import Path

import pytest

from boxwright.checkpoints.names import missing_weights, names_in_checkpoint


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_is_found_in_the_one_pickle_of_a_file(tmp_path: Path) -> None:
    for count, found in ((1, True), (2, False)):  # two: no file of torch.save, and thousands would take hours
        path = tmp_path / f"{count}.pt"
        with zipfile.ZipFile(path, "w") as archive:
            for _ in range(count):
                archive.writestr("a/data.pkl", b"model.0.conv")
        assert names_in_checkpoint(path, b"model.0.") == found
        assert not names_in_checkpoint(path, b"model.1.")


def test_in_what_is_no_checkpoint_nothing_is_found(tmp_path: Path) -> None:
    assert not names_in_checkpoint(tmp_path / "absent.pt", b"a")
    assert not names_in_checkpoint(tmp_path, b"a")


def test_a_run_folder_in_place_of_weights_is_answered_with_its_best(tmp_path: Path) -> None:
    assert missing_weights(tmp_path / "gone.pt").startswith(f"there are no weights at {tmp_path}/gone.pt: nothing is")
    assert missing_weights(tmp_path) == f"{tmp_path} is a folder: name the file of weights"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/best.pt").write_bytes(b"x")
    assert missing_weights(tmp_path).endswith(f"name the file of weights, {tmp_path}/weights/best.pt")
