"""Is this tag ready to be released? `python tools/release.py v0.1.0` prints what changed, or says what is missing."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(tag: str, version: str, cited: str, changes: str) -> str:
    """The section of the changes for a tag.

    Args:
        tag: "v0.1.0".
        version: that of the package.
        cited: the text of CITATION.cff.
        changes: the text of CHANGELOG.md.

    Raises:
        ValueError: if the three do not agree, or the section has no date.
    """
    if tag != f"v{version}":
        raise ValueError(f"the tag must be v{version}, the version of the package, got {tag}")
    if f"\nversion: {version}\n" not in cited:
        raise ValueError(f"CITATION.cff must have version: {version}")
    section = re.search(rf"^## {re.escape(version)}, (.*)\n\n((?:(?!## ).*\n)*)", changes, re.MULTILINE)
    if section is None or not re.fullmatch(r"\d{4}-\d\d-\d\d", section[1]):
        raise ValueError(f"CHANGELOG.md must have a heading '## {version}, YYYY-MM-DD'")
    return section[2].strip() + "\n"


if __name__ == "__main__":
    package = (ROOT / "companion" / "__init__.py").read_text(encoding="utf-8")
    stated = re.search(r'^__version__ = "(.+)"', package, re.MULTILINE)
    try:
        read = [(ROOT / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "CHANGELOG.md")]
        print(notes(sys.argv[1], stated[1], *read), end="")
    except ValueError as error:
        sys.exit(str(error))
