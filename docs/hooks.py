"""Hooks of mkdocs: pages outside docs/ become pages of the site, and files that pages link to are published.

README.md, CHANGELOG.md and CONTRIBUTING.md lie outside docs/. A link such as
`../benchmarks/results/level.json` works in the repository; here it is rewritten to a copy of that file on the
site. A link to a file that does not exist stays as it is, and `mkdocs build --strict` reports it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages outside docs/, by their path in the repository: their path on the site."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside docs/, and every file outside docs/ that a page links to."""
    for source, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text()))
    for page in [file for file in files if file.is_documentation_page()]:
        for link in LINK.findall(page.content_string):
            path = _in_repository(link, page.src_uri)
            uri = _on_site(path)
            if uri == path and (ROOT / path).is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links from paths in the repository to paths on the site."""
    here = posixpath.dirname(page.file.src_uri)

    def rewrite(match: re.Match[str]) -> str:
        path = _on_site(_in_repository(match[1], page.file.src_uri))
        return posixpath.relpath(path, here or ".")

    return LINK.sub(rewrite, markdown)


def _in_repository(link: str, uri: str) -> str:
    """The path in the repository that `link` names on the page whose path on the site is `uri`."""
    outside = {place: source for source, place in OUTSIDE.items()}
    folder = posixpath.dirname(outside.get(uri, f"docs/{uri}"))
    return posixpath.normpath(posixpath.join(folder, link))


def _on_site(path: str) -> str:
    """The path on the site of a file in the repository."""
    return OUTSIDE.get(path) or path.removeprefix("docs/")
