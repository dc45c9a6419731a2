"""Markdown as one page."""

from __future__ import annotations

from pathlib import Path

from loki_rl.reports.page import table, write_page


def test_what_looks_like_html_is_text(tmp_path: Path) -> None:
    lines = ["# A & B", "", *table(["name", "n>"], [["<img src=x onerror=alert(1)>", "3"]]), "", "<script>alert(2)</script>"]
    write_page("\n".join(lines), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>A &amp; B</h1>" in page
    assert "&lt;img src=x onerror=alert(1)&gt;</td>" in page
    assert "&lt;script&gt;alert(2)" in page
    assert "<script" not in page
    assert '<td style="text-align: right;">3</td>' in page
