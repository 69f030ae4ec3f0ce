"""Print the oldest versions that the package promises to run with, as constraints for pip; with --none nothing."""

import re
import sys
import tomllib
from pathlib import Path


def floors(requirements: list[str]) -> list[str]:
    """["numpy==2.0", ...] from ["numpy>=2.0", ...]; a full version where pip would take another last number."""
    found = (re.match(r"([\w-]+)>=([\w.]+)", line) for line in requirements)
    return [f"{one[1]}=={one[2]}" for one in found if one]


if __name__ == "__main__" and sys.argv[1:] != ["--none"]:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    optional = project["optional-dependencies"]
    print("\n".join(floors(project["dependencies"] + optional["book"] + optional["data"] + optional["pandas"])))
