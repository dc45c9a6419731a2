"""`python -m loki_rl.manual FOLDER` writes the pages that are made from the code."""

from __future__ import annotations

import sys
from pathlib import Path

from loki_rl.cli.reference import reference
from loki_rl.manual.environments import environments_page
from loki_rl.manual.files import files_page
from loki_rl.manual.metrics import metrics_page

PAGES = {
    "reference.md": reference,
    "files.md": files_page,
    "metrics.md": metrics_page,
    "environments.md": environments_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(sys.argv[1]) / name).write_text(page(), encoding="utf-8")
