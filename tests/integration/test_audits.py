"""The audits with small counts: damage, faults in a save, full disks. `make audit` runs the long ones.

The small version of kills is `test_killed_three_times` in test_resume.py.
"""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest

from tests.audits.damage import audit_damage
from tests.audits.faults import KILL_IN_WRITE, audit_faults
from tests.audits.full_disk import audit_full_disk


def test_no_damage_is_taken_in_silence(tmp_path: Path) -> None:
    found = audit_damage(tmp_path / "damage", 12)
    assert len(found) == 5
    for name, counts in found.items():
        assert not [verdict for verdict in counts if verdict.startswith("SILENT")], name
        assert sum(counts.values()) == 24
    assert found["last.pt"]["told"] > 18
    assert found["safetensors"]["told"] > 18


def test_faults_in_a_save(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # where a save need not wait for a disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        trials, wrong = audit_faults(Path(folder), {"full": errno.ENOSPC, "kill in a write": KILL_IN_WRITE})
    assert not wrong
    assert trials > 20


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disks(tmp_path: Path) -> None:
    words = {
        "train": ("train_batch0.jpg", "report.html"),
        "train --noplots": ("config.yaml", "events.jsonl", "log.log", "tfevents", "metrics.json"),
        "val": ("PR_curve.png",),
        "predict": ("labels/", "predictions.json", "log.log"),
        "export": ("torchscript",),
        "anchors": ("anchors.png",),
    }
    trials, wrong = audit_full_disk(tmp_path, words)
    assert not wrong
    assert trials == sum(map(len, words.values()))
