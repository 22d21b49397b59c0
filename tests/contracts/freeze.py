"""The command line and the settings as one plain text, to be compared with what is checked in.

`python -m tests.contracts.freeze` writes it anew.
"""

from pathlib import Path

from boxwright.cli.parser import verb_flags
from boxwright.settings.base import Frozen
from boxwright.settings.flags import Flag, setting_names
from boxwright.systems import SYSTEMS, load_system

FROZEN = Path(__file__).with_name("frozen.txt")
RENEW = "python -m tests.contracts.freeze"
HEADER = f"# Flags and settings that users rely on. Made by `{RENEW}`.\n"


def schema_of(kind: type[Frozen], name: str) -> str:
    """Type and limits of a setting."""
    *groups, last = name.split(".")
    for group in groups:
        kind = kind.model_fields[group].annotation  # type: ignore[assignment]
    field = kind.model_json_schema()["properties"][last]
    said = ("title", "default", "items", "description", *(kind.model_fields[last].json_schema_extra or {}))
    return "; ".join(f"{key} {value}" for key, value in field.items() if key not in said)


def frozen_text() -> str:
    """One line for each setting of each verb of each system: spellings, values, default, type and limits."""
    lines: list[str] = []
    for system in SYSTEMS:
        for verb, entry in load_system(system).VERBS.items():
            of_settings = setting_names(entry.settings)
            for flag in verb_flags(entry):
                kind = entry.settings if flag.setting in of_settings else entry.files
                assert kind is not None
                lines.append(f"{system} {verb}: {_line(flag)}; {schema_of(kind, flag.setting)}")
    return "\n".join([HEADER, *lines, ""])


def _line(flag: Flag) -> str:
    values = {"switch": "alone or value", "list": "values", "value": "value"}[flag.kind]
    values = "alone or value" if flag.bare is not None else values
    alone = f" or {flag.metavar}" if flag.position else ""
    return f"{' '.join(flag.names)}{alone} ({values}) = {flag.setting}, {flag.default!r}"


if __name__ == "__main__":
    FROZEN.write_text(frozen_text(), encoding="utf-8")
    print(f"wrote {FROZEN.name}")
