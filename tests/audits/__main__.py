"""Run the long audits: `make audit`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.audits import damage, faults, full_disk, kills

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        fine = [
            damage.main(200, root / "damage"),
            faults.main(root / "faults"),
            full_disk.main(root / "full"),
            kills.main(60, root / "kills"),
        ]
    sys.exit(not all(fine))
