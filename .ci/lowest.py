"""Prints the lowest versions that pyproject.toml allows, as constraints for pip."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
LOWEST = re.compile(r"([\w-]+)(?:\[[\w,-]+\])?>=([\d.]+)")

wanted = [*PROJECT["dependencies"], *(one for extra in PROJECT["optional-dependencies"].values() for one in extra)]
found = [match.groups() for one in wanted if (match := LOWEST.match(one))]
print("\n".join(sorted({f"{name}=={version}" for name, version in found})))
