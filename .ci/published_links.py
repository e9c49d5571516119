"""Makes links absolute for a page that is read elsewhere: `python .ci/published_links.py OWNER/NAME REF`.

In a clone the links of README.md lead to its files. On PyPI they would lead nowhere, so a release writes them anew, of
the repository and the tag that it is made from, and names the repository in pyproject.toml.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+://|#)([^)\s]+)\)")


def absolute(page: str, repository: str, ref: str) -> str:
    """The page with links to `repository` (owner/name on GitHub) as it is at `ref`; those of pictures to the files."""

    def link(match: re.Match[str]) -> str:
        kind = "raw" if match[1] else "blob"
        return f"{match[1]}[{match[2]}](https://github.com/{repository}/{kind}/{ref}/{match[3]})"

    return LINK.sub(link, page)


def with_urls(pyproject: str, repository: str, ref: str) -> str:
    """pyproject.toml with the project's addresses."""
    home = f"https://github.com/{repository}"
    urls = {
        "Repository": home,
        "Documentation": f"{home}/blob/{ref}/docs/index.md",
        "Changelog": f"{home}/blob/{ref}/CHANGELOG.md",
        "Issues": f"{home}/issues",
    }
    lines = "\n".join(f'{name} = "{url}"' for name, url in urls.items())
    return pyproject.replace("[project.scripts]\n", f"[project.urls]\n{lines}\n\n[project.scripts]\n", 1)


def main() -> None:
    repository, ref = [*sys.argv[1:], "", ""][:2]
    if not ref or re.fullmatch(r"[\w.-]+/[\w.-]+", repository) is None:
        raise SystemExit(f"OWNER/NAME and a tag are needed, not {sys.argv[1:]}")
    for name, change in (("README.md", absolute), ("pyproject.toml", with_urls)):
        path = ROOT / name
        path.write_text(change(path.read_text(encoding="utf-8"), repository, ref), encoding="utf-8")


if __name__ == "__main__":
    main()
