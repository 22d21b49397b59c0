"""What can be said of weights without torch and without unpickling: which entries they name, that they are missing."""

import zipfile
from pathlib import Path

_HEAD_OF_OLD_FILE = 1 << 22  # bytes in which a checkpoint of before PyTorch 1.6 names its entries


def missing_weights(path: str | Path) -> str:
    """Say that there are no weights here, and where one gets them."""
    if (folder := Path(path)).is_dir():
        inside = (str(folder / name) for name in ("weights/best.pt", "best.pt") if (folder / name).is_file())
        return f"{path} is a folder: name the file of weights{next((f', {name}' for name in inside), '')}"
    return f"there are no weights at {path}: nothing is downloaded, docs/weights.md says where weights are published"


def names_in_checkpoint(path: Path, name: bytes) -> bool:
    """Look for the name of an entry in a file of torch.save; False where there is no such file."""
    try:
        if not path.is_file():
            return False
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                # Compressed ones, which torch.save does not write, could grow without an end.
                pickles = [e for e in archive.infolist() if e.filename.endswith("/data.pkl") and not e.compress_type]
                # A checkpoint has one; thousands in the same place of a file would each be read.
                return len(pickles) == 1 and name in archive.read(pickles[0])
        with path.open("rb") as file:
            return name in file.read(_HEAD_OF_OLD_FILE)
    except Exception:  # reported where it is opened
        return False
