"""The flags of `boxwright evolve`: those of train and of the search, with their own defaults."""

from __future__ import annotations

import pytest

from boxwright.cli import evolve, train
from boxwright.cli.flags import origins
from boxwright.errors import UserError
from boxwright.settings.load import load, setting_names
from boxwright.yolo.evolve_settings import EvolveConfig
from tests.unit.cli.test_flags import as_text

NOT_HERE = {"nproc", "sync_bn", "exist_ok"}


def settings(*argv: str) -> EvolveConfig:
    given = evolve.parser().parse_strictly(argv)
    return load(EvolveConfig, origins(given, *evolve.GROUPS.values()), hyp=given["hyp"], config=given["config"])


def test_each_setting_has_a_flag_with_its_default() -> None:
    flags = [flag for group in evolve.GROUPS.values() for flag in group]
    assert {flag.setting: flag.default for flag in flags} == {
        name: as_text(EvolveConfig, name) for name in setting_names(EvolveConfig) if name not in NOT_HERE
    }


def test_flags_of_train_are_taken() -> None:
    config = settings("--epochs", "5", "--optim.lr0", "0.1", "--hyp", "VOC", "--generations", "20", "--prune")
    assert (config.epochs, config.optim.lr0, config.optim.lrf) == (5, 0.1, 0.15135)
    assert (config.generations, config.prune, config.noval) == (20, "median", True)
    assert not settings("--noval=false").noval


@pytest.mark.parametrize("argv", ["--generations 0", "--sampler genetic", "--parents two", "--prune best"])
def test_wrong_values_name_their_flag(argv: str) -> None:
    with pytest.raises(UserError, match=argv.split()[0]):
        settings(*argv.split())


def test_the_published_flag_is_answered() -> None:
    with pytest.raises(UserError, match="there is no flag --evolve: write boxwright evolve --generations N"):
        train.parser().parse_strictly(["--evolve", "300"])
