"""What a package index shows of raybench: with the repository's address, its links and the README's become absolute.

    RAYBENCH_REPOSITORY=https://HOST/OWNER/raybench python -m build

The address is read when a distribution is built, because a checkout does not know where it is published; without one
nothing changes. Everything else is in pyproject.toml.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import setuptools

ROOT = Path(__file__).parent
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)")


def absolute(markdown: str, repository: str, revision: str) -> str:
    """The text with each relative link leading to that file of a revision, at GitHub or a server with paths as there.

    Images lead to the file itself.
    """

    def lead(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        address = f"{repository}/{kind}/{revision}/{link['path']}{link['anchor'] or ''}"
        return f"{link['image']}[{link['text']}]({address})"

    return _LINK.sub(lead, markdown)


def published(repository: str) -> dict[str, object]:
    """The metadata that names the repository; only the README as it is where no address is given."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    described: dict[str, object] = {"long_description": readme, "long_description_content_type": "text/markdown"}
    if not repository:
        return described
    if not re.fullmatch(r"https://[^\s/]+(/[^\s/]+)+", repository):
        raise SystemExit(f"RAYBENCH_REPOSITORY={repository}: not an address such as https://HOST/OWNER/raybench")
    revision = "v" + tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return {
        **described,
        "long_description": absolute(readme, repository, revision),
        "project_urls": {
            "Repository": repository,
            "Documentation": f"{repository}/blob/{revision}/docs/README.md",
            "Changelog": f"{repository}/blob/{revision}/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        },
    }


setuptools.setup(**published(os.environ.get("RAYBENCH_REPOSITORY", "").rstrip("/")))
