"""What the documentation names is there: files, functions, classes, links and their headings; what is typed is shell."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((PROJECT / "docs").rglob("*.md")), PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"]
CODE = ("agents", "env", "loki_rl", "serving", "traces", "benchmarks")
# A name may be given from here.
FOLDERS = (".", "loki_rl", "loki_rl/control", "docs", "docs/tutorials")
# Names of files that users or commands make; what a page has its reader save is one, too.
MADE = {"report.md", "card.md", "run.json", "classify.py", "score.py", "stripes.py"}
SAVED = re.compile(r"<!-- typed: file (\S+) -->")

FILE = re.compile(r"(?<![\w/.-])((?:[\w-]+/)*[\w-]+\.(?:py|md|toml|yml|service))\b")
MEMBER = re.compile(r"`([A-Z]+[a-z]\w*)\.(\w+)`")
IN_FILE = re.compile(r"`([\w/]+\.py)`\s+`([\w.]+)`")
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([\w-]+))?\)")


def sources() -> list[Path]:
    """Every file of code, once: the links inside the package lead to the folders at the top."""
    return [path for top in CODE for path in sorted((PROJECT / top).rglob("*.py")) if not path.is_symlink()]


@cache
def names_of(path: Path) -> dict[str, set[str]]:
    """Class -> what it defines; under "" what the module defines."""
    found: dict[str, set[str]] = {"": set()}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found[""] |= defined(tree)
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = defined(node)
    return found


def defined(scope: ast.Module | ast.ClassDef) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return names


@cache
def members() -> dict[str, set[str]]:
    """Class -> what classes of this name define anywhere."""
    found: dict[str, set[str]] = {}
    for path in sources():
        for name, inside in names_of(path).items():
            found.setdefault(name, set()).update(inside)
    return found


def files_named(name: str) -> list[Path]:
    given = [PROJECT / folder / name for folder in FOLDERS if (PROJECT / folder / name).is_file()]
    if given or "/" in name:
        return given
    return [path for top in (*CODE, "tests", "deploy", "examples") for path in (PROJECT / top).rglob(name)]


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    unknown = {name for name in FILE.findall(text) if name not in MADE.union(SAVED.findall(text)) and not files_named(name)}
    unknown |= {f"{kind}.{name}" for kind, name in MEMBER.findall(text) if name not in members().get(kind, set())}
    for file, name in IN_FILE.findall(text):
        kind, _, member = name.rpartition(".")
        if all(member not in names_of(path).get(kind, set()) for path in files_named(file)):
            unknown.add(f"{file}: {name}")
    assert unknown == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = set()
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file = page if not target else page.parent / target
        if not file.exists() or (anchor and anchor not in headings(file)):
            broken.add(f"{target}#{anchor}")
    assert broken == set()


@pytest.fixture(scope="module")
def typed() -> ModuleType:
    """The script that types what pages say."""
    spec = spec_from_file_location("typed", PROJECT / ".ci" / "typed.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_tutorial_is_typed(typed: ModuleType) -> None:
    assert {f"docs/tutorials/{page.name}" for page in (PROJECT / "docs" / "tutorials").glob("*.md")} <= set(typed.PAGES)


def test_what_is_typed_is_shell_and_what_is_saved_parses(typed: ModuleType) -> None:
    for page in typed.PAGES:
        for number, block in enumerate(typed.blocks(PROJECT / page)):
            word = block.note.partition(" ")[0]
            assert word in ("", "slow", "not", "file", "background"), f"{page}: {block.note}"
            if text := typed.typed(number, block, quick=False):
                done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
                assert (done.returncode, done.stderr) == (0, ""), f"{page}: {block.text}"
            if word == "file" and block.note.endswith(".py"):
                ast.parse(block.text)


def test_a_block_that_fails_is_named(typed: ModuleType, tmp_path: Path) -> None:
    page = "# Page\n\n```sh\ntrue\n```\n\n<!-- typed: slow -->\n```sh\nfalse # slow\n```\n\n```sh\nfalse # told\n```\n"
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "page.md").write_text(page)
    with pytest.raises(SystemExit, match=r"page\.md: this block ended with 1:\n\nfalse # told"):
        typed.type_page("page.md", tmp_path / "clone", dict(os.environ), quick=True)
    with pytest.raises(SystemExit, match="false # slow"):
        typed.type_page("page.md", tmp_path / "clone", dict(os.environ), quick=False)
