"""What `boxwright.systems` asks of a system. Imports no torch."""

from pathlib import Path

from boxwright.checkpoints.names import names_in_checkpoint
from boxwright.settings.base import TrainingFiles, Verb
from tests.toy_system.settings import ToyConfig, ToyExportConfig, ToyValConfig

HINT = "Quarters: `boxwright {call} --help` lists the flags."
CHOSEN_BY = {"model": "toy"}
RUN = "tests.toy_system.verbs:ToyRun"
LOAD = ""  # as it has no predict
ANSWERS: dict[str, str] = {"--quarters": "there are always four"}
VERBS = {
    "train": Verb(ToyConfig, "tests.toy_system.verbs:train", TrainingFiles),
    "val": Verb(ToyValConfig, "tests.toy_system.verbs:val"),
    "export": Verb(ToyExportConfig, "tests.toy_system.verbs:export"),
}


def claims(what: str, value: str) -> bool:
    if what in ("model", "task"):
        return value == "toy"
    return value.endswith(".npz") if what == "data" else names_in_checkpoint(Path(value), b"quarter.weight")


def find_config(name: str) -> str:
    return name
