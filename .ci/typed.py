"""Types what README, quick start and tutorials say, in a copy of these files and a fresh virtual environment.

    python .ci/typed.py [--quick] [README.md PAGE ...]

Every `sh` block of a page is given to one shell, in order, without an edit; `python3` is $PYTHON there. README.md makes the
environment for all others. A comment above a block says what else is to be done with it:

    <!-- typed: slow -->                   left out with --quick
    <!-- typed: not -->                    needs what a fresh machine has not: never typed
    <!-- typed: file NAME -->              saved under this name (a block of any language)
    <!-- typed: background until URL -->   one command, which runs on; the next block waits for the URL

The first block that fails ends it, with the page and the block; what a page leaves running is stopped at its end.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ("own-pipeline", "triton", "operate", "extend", "tensorboard", "train")
CHAPTERS = ("quick-start", "planning", "policies", "api", "serving", "troubleshooting")
PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in CHAPTERS),
    *(f"docs/tutorials/{name}.md" for name in TUTORIALS),
)
NOTE, FENCE = r"(?:^<!-- typed: (?P<note>.*?) -->\n)?", r"^```(?P<language>\w*)\n(?P<text>.*?)^```$"
BLOCK = re.compile(NOTE + FENCE, re.MULTILINE | re.DOTALL)
READY_S = 300
# What commands have made, which a fresh clone has not: folders of the project, and anywhere.
MADE = {".git", ".venv", "build", "dist", "demo", "runs", "models", ".hypothesis"}
CACHES = shutil.ignore_patterns("*.egg-info", ".*_cache")
# What numba has compiled of these sources, which takes it longer than the quick blocks of a page.
COMPILED = (".nbi", ".nbc")
PRELUDE = f"""\
set -eu -o pipefail
behind=
leave() {{ for one in $behind; do kill -TERM "$one" 2>/dev/null || true; done; wait; }}
trap leave EXIT
begin() {{ echo "$1" >"$MARK"; }}
# What answers already is another program's, which would be asked in place of ours.
vacant() {{
    if curl --silent --max-time 5 --output /dev/null "$1"; then echo "another program answers at $1; stop it"; return 1; fi
}}
ready() {{
    for _ in $(seq {READY_S}); do
        kill -0 "${{behind##* }}" || return 1
        if curl --fail --silent --output /dev/null "$1"; then return 0; fi
        sleep 1
    done
    return 1
}}
[ ! -e .venv/bin/activate ] || . .venv/bin/activate
"""


class Block(NamedTuple):
    """note: what the comment above it says; language: of the fence."""

    note: str
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Of a page, in order."""
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(match["note"] or "", match["language"], match["text"])


def typed(number: int, block: Block, quick: bool) -> str:
    """What the shell is given for a block; empty for nothing."""
    word, _, rest = block.note.partition(" ")
    if word == "file":
        return f"begin {number}\ncat >{shlex.quote(rest)} <<'END OF {number}'\n{block.text}END OF {number}"
    if block.language != "sh" or word == "not" or (word == "slow" and quick):
        return ""
    if word == "background":
        url = shlex.quote(rest.removeprefix("until "))
        return f'begin {number}\nvacant {url}\nexec {block.text.strip()} &\nbehind="$behind $!"\nready {url}'
    return f"begin {number}\n{block.text}"


def type_page(page: str, clone: Path, environment: dict[str, str], quick: bool) -> None:
    """Ends the program where a block fails."""
    began, mark = time.monotonic(), clone.parent / "mark"
    found = list(blocks(clone / page))
    lines = "\n".join([PRELUDE, *(typed(number, block, quick) for number, block in enumerate(found))])
    told = environment | {"MARK": str(mark)}
    done = subprocess.run(["bash", "-c", lines], cwd=clone, env=told, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{page}: this block ended with {done.returncode}:\n\n{found[int(mark.read_text())].text}")
    print(f"== {page}: {time.monotonic() - began:.0f} s", flush=True)


def made_here(folder: str, names: list[str], quick: bool) -> set[str]:
    if Path(folder).name == "__pycache__":
        return {name for name in names if not (quick and name.endswith(COMPILED))}
    return CACHES(folder, names) | (MADE & set(names) if Path(folder) == ROOT else set())


def main(words: list[str]) -> None:
    quick, pages = "--quick" in words, [word for word in words if not word.startswith("--")]
    with tempfile.TemporaryDirectory(prefix="typed-") as folder:
        clone, python = Path(folder) / "loki-rl", Path(folder) / "bin" / "python3"
        shutil.copytree(ROOT, clone, symlinks=True, ignore=partial(made_here, quick=quick))
        python.parent.mkdir()
        found = shutil.which(os.environ.get("PYTHON", "python3")) or sys.executable
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(found)} "$@"\n')
        python.chmod(0o755)
        own = {"PATH": f"{python.parent}:{os.environ['PATH']}", "XDG_DATA_HOME": f"{folder}/data"}
        # What make told its own children, where make started this.
        outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        for page in pages or PAGES:
            type_page(page, clone, outside | own, quick)


if __name__ == "__main__":
    main(sys.argv[1:])
