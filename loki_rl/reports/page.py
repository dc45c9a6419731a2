"""A report as one page that needs nothing else: Markdown in, HTML with its pictures inside out."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from markdown import Markdown

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 80rem; margin: 2rem auto; padding: 0 1.5rem; }
h1, h2, h3 { line-height: 1.25; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { padding: .3rem .5rem; border-bottom: 1px solid #e4e4e4; vertical-align: top; }
thead th { border-bottom: 2px solid #888; }
tbody tr:hover { background: #f6f8fa; }
img { max-width: 100%; height: auto; }
code { background: #f3f3f3; padding: .1rem .3rem; border-radius: 3px; }
"""
BAR = r"\|"  # within a cell
PICTURE = re.compile(r'src="([^"]+\.png)"')


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown. Columns whose head ends in > are set flush right; a head may be empty."""
    rule = ["--:" if head.endswith(">") else ":--" for head in heads]
    lines = [[head.rstrip(">") for head in heads], rule, *rows]
    return [f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |" for cells in lines]


def write_page(text: str, path: Path) -> None:
    """The Markdown text as a page; pictures are looked for beside it. Raises OSError."""
    title = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("# ")), path.stem).replace("*", "")
    body = _reader().convert(text)
    path.write_text(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{_with_pictures(body, path.parent)}\n</body>\n</html>\n",
        encoding="utf-8",
    )


def _reader() -> Markdown:
    """Text that looks like HTML is text: reports hold names of files, which are anybody's."""
    made = Markdown(extensions=["tables", "sane_lists"], output_format="html")
    made.preprocessors.deregister("html_block")
    made.inlinePatterns.deregister("html")
    return made


def _with_pictures(body: str, folder: Path) -> str:
    def inside(found: re.Match[str]) -> str:
        data = b64encode((folder / found[1]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    return PICTURE.sub(inside, body)
