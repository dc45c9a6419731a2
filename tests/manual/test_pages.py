"""Pages that are made from the code: current, complete, and of the types that the code has."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Annotated

import pytest
from gymnasium.envs.registration import registry
from msgspec import Meta, Struct

from loki_rl.files.pipeline_yaml import FileTable, TaskTable, VariantTable
from loki_rl.manual.__main__ import PAGES
from loki_rl.manual.environments import environments_page
from loki_rl.manual.files import files_page
from loki_rl.manual.keys import field_table, type_words
from loki_rl.options import Help

PROJECT = Path(__file__).resolve().parents[2]


class Sample(Struct):
    """A struct of these tests."""

    size: Annotated[Annotated[int, Meta(ge=1, le=9)], Help("How many.")]
    names: list[str] = []
    rate: Annotated[float | None, Help("How often [1/s].")] = None


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    assert (PROJECT / "docs" / name).read_text(encoding="utf-8") == PAGES[name](), "run 'make reference'"


def test_a_row_has_type_limits_default_and_meaning() -> None:
    assert field_table(Sample)[2:] == [
        "| `size` | whole number, at least 1, at most 9 | required | How many. |",
        "| `names` | list of text |  |  |",
        "| `rate` | number |  | How often [1/s]. |",
    ]
    assert type_words(dict[int, float | list[float]]) == "table of whole number: number or list of number"


@pytest.mark.parametrize("kind", [FileTable, TaskTable, VariantTable])
def test_every_key_of_a_pipeline_file_says_what_it_means(kind: type[Struct]) -> None:
    for row in field_table(kind)[2:]:
        assert row.split("|")[4].strip(), row


def test_keys_that_shipped_files_use_are_on_the_page() -> None:
    known = set(re.findall(r"^\| `(\w+)` \|", files_page(), re.MULTILINE))
    used = re.findall(r"^ {0,4}(\w+):", (PROJECT / "pipelines" / "pools" / "three-types.yaml").read_text(), re.MULTILINE)
    assert set(used) - {"large", "medium", "small"} <= known


def test_every_environment_is_on_the_page_and_its_example_parses() -> None:
    page = environments_page()
    assert all(f"## {name}\n" in page for name in registry if name.startswith("LokiRL/"))
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        ast.parse(block)
