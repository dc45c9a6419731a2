"""What the hooks of the documentation's site make of a page."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).parents[1] / ".ci" / "site.py"


@pytest.fixture(scope="module")
def site() -> Any:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    spec = spec_from_file_location("site_hooks", SITE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "text", "shown"),
    [
        ("quick-start.md", "[planning.md](planning.md)", "[Plan](planning.md)"),
        ("tutorials/train.md", "[faults.md](../faults.md#in-the-twin)", "[Faults](../faults.md#in-the-twin)"),
        ("index.md", "[docs/serving.md](docs/serving.md)", "[Serve](docs/serving.md)"),
        ("quick-start.md", "[plans](planning.md)", "[plans](planning.md)"),
        ("policies.md", "[report.md](runs/report.md)", "[report.md](runs/report.md)"),
    ],
)
def test_a_link_called_by_a_file_bears_the_title_of_its_page(site: Any, page: str, text: str, shown: str) -> None:
    assert site.NAMED.sub(lambda match: site._titled(match, page), text) == shown


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (r"`--drop none\|late`", "<code>--drop none&#124;late</code>"),
        (r"`<a>\|b`", "<code>&lt;a&gt;&#124;b</code>"),
        ("`a | b`", "`a | b`"),
        ("```sh\na \\| b\n```", "```sh\na \\| b\n```"),
    ],
)
def test_a_bar_in_code_is_shown_without_its_escape(site: Any, code: str, shown: str) -> None:
    assert site._code(code) == shown
