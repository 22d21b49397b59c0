"""The command line and the settings as one plain text, to be compared with what is checked in.

`python -m tests.contracts.freeze` writes it anew.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from boxwright.centerfusion import settings as fusion
from boxwright.cli.main import VERBS
from boxwright.settings import base
from boxwright.settings.load import setting_names
from boxwright.yolo import settings as schema
from boxwright.yolo.evolve_settings import EvolveConfig

FROZEN = Path(__file__).with_name("frozen.txt")
RENEW = "python -m tests.contracts.freeze"
HEADER = f"# Flags and settings that users rely on. Made by `{RENEW}`.\n"


def flags() -> list[str]:
    """One line a flag: verb, names, number of values."""
    lines: list[str] = []
    modules = {verb: entry.module for verb, entry in VERBS.items()}
    modules |= {
        f"{verb} --model {fusion.MODEL}": f"boxwright.cli.fusion_{verb}" for verb in ("train", "val", "predict")
    }
    for verb, module in modules.items():
        parser: argparse.ArgumentParser = importlib.import_module(module).parser()
        for action in parser._actions:
            names = " ".join(action.option_strings) or action.dest
            values = {None: "value", 0: "alone", "?": "alone or value", "+": "values"}[action.nargs]  # type: ignore[index]
            lines.append(f"boxwright {verb} {names}: {values}")
    return lines


def settings() -> list[str]:
    """One line a setting: dotted path, type with its limits, default."""
    lines: list[str] = []
    kinds = (schema.RunConfig, schema.ValConfig, schema.PredictConfig, schema.ExportConfig)
    of_fusion = (fusion.FusionConfig, fusion.FusionValConfig, fusion.FusionPredictConfig)
    for kind in (*kinds, EvolveConfig, *of_fusion):
        for name in setting_names(kind):
            if kind is EvolveConfig and name not in EvolveConfig.__annotations__:
                continue  # those of RunConfig
            model: type[base.Frozen] = kind
            *groups, last = name.split(".")
            for group in groups:
                model = model.model_fields[group].annotation  # type: ignore[assignment]
            field = model.model_json_schema()["properties"][last]
            limits = [f"{key} {value}" for key, value in field.items() if key not in ("title", "default", "items")]
            lines.append(f"{kind.__name__}.{name} = {field['default']!r}; {'; '.join(limits)}")
    return lines


def frozen_text() -> str:
    return "\n".join([HEADER, *flags(), "", *settings(), ""])


if __name__ == "__main__":
    FROZEN.write_text(frozen_text(), encoding="utf-8")
    print(f"wrote {FROZEN.name}")
