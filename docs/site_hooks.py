"""Hooks of mkdocs: pages from outside docs/, and links that point there.

Pages of docs/ are read on the site and in the repository. A link to a file outside docs/ becomes a link to its page
where the site has one, else the path of the file; a link to a file that is not there ends the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {name: f"{name.partition('.')[0].lower()}.md" for name in ("CONTRIBUTING.md", "PROVENANCE.md", "SECURITY.md")}
INCLUDE = re.compile(r"<!-- include (\S+): (.+) -->")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie at the root of the repository."""
    for name, page in PAGES.items():
        if page not in files.src_uris:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make the links of a page those of the site."""
    uri = page.file.src_uri
    folder = "" if uri in PAGES.values() else posixpath.join("docs", posixpath.dirname(uri))

    def linked(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if not (ROOT / path).exists():
            raise PluginError(f"{uri}: {target} is not there")
        if path in PAGES:
            path = posixpath.join("docs", PAGES[path])
        elif (ROOT / path / "README.md").is_file() and path.startswith("docs/"):
            path = posixpath.join(path, "README.md")
        if path.startswith("docs/"):
            here = posixpath.join("docs", posixpath.dirname(uri))
            return f"[{text}]({posixpath.relpath(path, here)}{anchor})"
        return text if path in text else f"{text} (`{path}`)"

    def included(found: re.Match[str]) -> str:
        """Return a section of a page at the root, with links as this page would have them."""
        text = (ROOT / found[1]).read_text(encoding="utf-8")
        _, _, section = text.partition(f"\n## {found[2]}\n")
        if not section:
            raise PluginError(f"{uri}: {found[1]} has no section {found[2]}")
        up = posixpath.relpath(".", folder) if folder else "."
        return LINK.sub(lambda m: f"[{m[1]}]({up}/{m[2]}{m[3] or ''})", section.partition("\n## ")[0])

    return LINK.sub(linked, INCLUDE.sub(included, markdown))
