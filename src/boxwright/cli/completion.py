"""Tab completion for bash and zsh: a script that knows every verb, flag and word that a flag takes.

    eval "$(boxwright completion bash)"

The script holds all words, so that a key press starts no Python. Files complete where a flag takes none of its words.
"""

import re
from collections.abc import Iterator

from boxwright import systems
from boxwright.cli.parser import verb_flags
from boxwright.errors import UserError
from boxwright.yolo.hyp import preset_names

_IS_RANGE = re.compile(r"from |above |to |below |$")  # limits that are no list of words
_SCRIPT = """\
_boxwright() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}" words=
    if [ "$prev" = "=" ]; then prev="${COMP_WORDS[COMP_CWORD-2]}"; fi
    if [ "$cur" = "=" ]; then prev="${COMP_WORDS[COMP_CWORD-1]}" cur=; fi
    if [ "$COMP_CWORD" -gt 2 ]; then case "$verb" in %(two_words)s) verb="$verb ${COMP_WORDS[2]}" ;; esac; fi
    if [ "$COMP_CWORD" -eq 1 ]; then words="%(verbs)s"; else
        case "$verb $prev" in
%(values)s
            *) case "$verb" in
%(kinds)s
            esac
            case "$cur" in -*) case "$verb" in
%(flags)s
            esac ;; esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _boxwright boxwright
"""
_ZSH = "autoload -Uz compinit bashcompinit\n(( $+functions[compdef] )) || compinit\nbashcompinit\n"
SHELLS = ("bash", "zsh")
USAGE = """\
usage: boxwright completion SHELL

Print a script for tab completion of verbs, flags and their words. A line for ~/.bashrc or ~/.zshrc:

  eval "$(boxwright completion bash)"
  eval "$(boxwright completion zsh)"
"""


def completion(shell: str, verbs: list[str]) -> str:
    """Write the script of a shell.

    Args:
        shell: bash or zsh.
        verbs: first words of the command line.

    Raises:
        UserError: another shell.
    """
    if shell not in SHELLS:
        raise UserError(
            f"completion is for {' and '.join(SHELLS)}, not for {shell or 'nothing'}: "
            'eval "$(boxwright completion bash)"'
        )
    kinds = {verb: [name.partition(" ")[2] for name in systems.subverbs(verb)] for verb in verbs}
    flags: dict[str, list[str]] = {}
    values: dict[str, list[str]] = {}  # words -> where they come
    for verb, names, words in _flags():
        flags.setdefault(verb, []).extend(name for name in names if name not in flags.get(verb, ()))
        if words:
            values.setdefault(words, []).extend(f'"{verb} {name}"' for name in names)
    two_words = "|".join(verb for verb in verbs if kinds[verb])
    script = _SCRIPT % {
        "two_words": two_words,
        "verbs": " ".join((*verbs, "completion")),
        "values": "\n".join(f'            {"|".join(dict.fromkeys(of))}) words="{w}" ;;' for w, of in values.items()),
        "kinds": "\n".join(
            f'                {verb}) words="{" ".join(found)}" ;;'
            for verb, found in {**kinds, "completion": list(SHELLS)}.items()
            if found
        ),
        "flags": "\n".join(f'                "{verb}") words="{" ".join(f)} --help" ;;' for verb, f in flags.items()),
    }
    return (_ZSH if shell == "zsh" else "") + script


def _flags() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield the verb, the spellings and the words of each flag of all systems."""
    for system in map(systems.load_system, systems.SYSTEMS):
        for verb, entry in system.VERBS.items():
            for flag in verb_flags(entry):
                words = "" if _IS_RANGE.match(flag.limits) else flag.limits.replace(",", "")
                if flag.setting == "hyp":
                    words = " ".join(preset_names())
                yield verb, flag.names, words
