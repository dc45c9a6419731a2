"""Hooks of mkdocs (see mkdocs.yml): what pages link to outside docs/ becomes part of the site, README its first page.

In the repository a link may lead anywhere in it. On the site PAGES are pages, and any other file stands under files/, as it
is in the checkout that the site is built from. A link that is called by the name of a page's file bears the page's title,
since nobody sees files there.
"""

from __future__ import annotations

import posixpath
import re
from html import escape
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs/"
# Files elsewhere -> their pages.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "deploy/README.md": "deployment.md",
}
SOURCES = {page: source for source, page in PAGES.items()}
NAMED = re.compile(r"\[(?:[\w-]+/)*[\w-]+\.md\](?=\(([\w./-]+\.md)[#)])")
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(\))")
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
BAR = r"\|"
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages that stand elsewhere in the repository."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they are on the site; what stands in code is left alone."""
    parts = CODE.split(markdown)
    parts[::2] = [NAMED.sub(lambda match: _titled(match, page.file.src_uri), part) for part in parts[::2]]
    parts[1::2] = [_code(part) for part in parts[1::2]]
    parts[::2] = [LINK.sub(lambda match: _link(match, page.file.src_uri, config, files), part) for part in parts[::2]]
    return "".join(parts)


def _titled(match: re.Match[str], page: str) -> str:
    """The text of a link to a page. What is no page keeps the name of its file."""
    file = _meant(match[1], page)
    shown = file.startswith(DOCS) or file in PAGES
    title = TITLE.search((ROOT / file).read_text(encoding="utf-8")) if shown and (ROOT / file).is_file() else None
    return match[0] if title is None else f"[{title[1]}]"


def _code(text: str) -> str:
    """A bar in a table's code is escaped for GitHub, and here the backslash would be shown."""
    if BAR not in text or "\n" in text:
        return text
    return f"<code>{escape(text.strip('`')).replace(BAR, '&#124;')}</code>"


def _meant(target: str, page: str) -> str:
    """The file of the repository that a link on a page leads to."""
    source = SOURCES.get(page, DOCS + page)
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def _link(match: re.Match[str], page: str, config: MkDocsConfig, files: Files) -> str:
    before, target, anchor, after = match.groups(default="")
    meant = _meant(target, page)
    place = PAGES.get(meant) or (meant.removeprefix(DOCS) if meant.startswith(DOCS) else _shown(meant, page, config, files))
    return f"{before}{posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor}{after}"


def _shown(meant: str, page: str, config: MkDocsConfig, files: Files) -> str:
    """Where on the site a file of the repository stands. Raises PluginError if there is none."""
    path = ROOT / meant
    if not path.is_file():
        raise PluginError(f"{page}: the link to {meant} leads to no file of the repository; correct it (no folders)")
    # Other Markdown is no page of the site: it is shown as it stands.
    place = f"files/{meant}" + ".txt" * meant.endswith(".md")
    if files.get_file_from_path(place) is None:
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return place
