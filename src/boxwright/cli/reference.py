"""The settings reference, made from the settings classes: `python -m boxwright.cli.reference > docs/settings.md`."""

from boxwright.cli.main import VERBS
from boxwright.cli.parser import verb_flags
from boxwright.systems import SYSTEMS, load_system

_HEADER = """# Settings

Made by `python -m boxwright.cli.reference > docs/settings.md`; a test checks that it is current. Each setting is
declared once, in its class; this page, the flags and `--help` come from there. In Python and in yaml files a setting
has the name of the first column, on the command line one of the spellings of the second.
"""


def reference() -> str:
    """Return the page as Markdown: one section per verb and system, one table row per setting."""
    parts = [_HEADER]
    kinds = {"switch": "true, false", "list": "several", "value": ""}
    for name in SYSTEMS:
        verbs = load_system(name).VERBS
        for verb in sorted(verbs, key=lambda verb: [*VERBS].index(verb.partition(" ")[0])):
            parts.append(f"## {verb} ({name})\n\n{verbs[verb].about}\n")
            parts.append("| setting | flags | default | values | meaning |\n|---|---|---|---|---|")
            for flag in verb_flags(verbs[verb]):
                spellings = " ".join(f"`{name}`" for name in flag.names)
                spellings += f" or `{flag.metavar}`" if flag.position else ""
                default = f"`{flag.shown_default}`" if flag.shown_default else ""
                values = flag.limits or kinds[flag.kind]
                if flag.bare and flag.kind != "switch":
                    values = f"{values}; alone: {flag.bare}".lstrip("; ")
                cells = (f"`{flag.setting}`", spellings, default, values, flag.meaning)
                parts.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
            parts[-1] += "\n"
    return "\n".join(parts)


if __name__ == "__main__":
    print(reference(), end="")
