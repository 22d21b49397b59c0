"""What a checkpoint names, looked up without unpickling it and without torch: to tell systems apart."""

import zipfile
from pathlib import Path

_HEAD_OF_OLD_FILE = 1 << 22  # bytes in which a checkpoint of before PyTorch 1.6 names its entries


def names_in_checkpoint(path: Path, name: bytes) -> bool:
    """Look for the name of an entry in a file of torch.save; False where there is no such file."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                pickles = [entry for entry in archive.namelist() if entry.endswith("data.pkl")]
                return any(name in archive.read(entry) for entry in pickles)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return name in file.read(_HEAD_OF_OLD_FILE)
    except (zipfile.BadZipFile, OSError):  # reported where it is opened
        return False
