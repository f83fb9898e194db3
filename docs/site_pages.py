"""What the site has beside the pages of `docs/`: the repository's own pages, and links that lead to them.

A link to a file that is not part of the site (a source, an example) keeps its text and is no link there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent.parent
# A path in the repository -> its place in the site.
PAGES: Final = {
    "README.md": "index.md",
    "docs/README.md": "contents.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "results/README.md": "results.md",
}
_OF_REPORTS: Final = ("report.html", "figures/*.svg")
_LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the repository's pages, the reports of its results and their figures."""
    if (contents := files.get_file_from_path("README.md")) is not None:
        files.remove(contents)  # it is there as `contents.md`; the front page is the repository's own
    for path, place in PAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    for path in sorted(path for kind in _OF_REPORTS for path in ROOT.glob(f"results/*/*/_report/{kind}")):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead relative links to where their files are in the site."""
    places = {place: path for path, place in PAGES.items()}
    place = page.file.src_uri
    folder = posixpath.dirname(places.get(place, f"docs/{place}"))

    def led(match: re.Match[str]) -> str:
        image, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in target or target.startswith("mailto:") or not target:
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target)).replace("/summary.md", "/report.html")
        to = PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(to) is None:
            return text if (ROOT / path).exists() else match[0]  # what leads nowhere is left for mkdocs to refuse
        return f"{image}[{text}]({posixpath.relpath(to, posixpath.dirname(place) or '.')}{anchor})"

    return _LINK.sub(led, markdown)
