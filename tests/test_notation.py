"""The notation page names what the package has; title page and README show the pictures of their chapters."""

import importlib.util
import inspect
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")


def rows():
    """(module, name) for every name in the column "in code" that belongs to a chapter's module."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        chapters = re.findall(r"<(\w+)>", cells[-1])
        names = re.findall(r"`([A-Za-z_]\w*)(?:\([\w, ]*\))?`", cells[3]) if len(cells) in (4, 5) else []
        for name in names:
            yield (chapters[-1] if chapters else "circle"), name


def known(module) -> set[str]:
    """What a module defines, and the names of its public functions' parameters."""
    public = [value for name, value in vars(module).items() if not name.startswith("_")]
    own = [value for value in public if getattr(value, "__module__", None) == module.__name__]
    members = [member for value in own if inspect.isclass(value) for member in vars(value).values()]
    functions = [value for value in own + members if inspect.isfunction(value)]
    return set(vars(module)) | {name for f in functions for name in inspect.signature(f).parameters}


def test_there_are_names():
    assert len(list(rows())) > 20


@pytest.mark.parametrize(("module", "name"), list(rows()))
def test_name_is_in_its_module(module, name):
    if importlib.util.find_spec(f"companion.{module}") is None:
        pytest.skip(f"companion.{module} is not written yet")
    assert name in known(importlib.import_module(f"companion.{module}"))


def test_the_title_picture_is_the_openings():
    tool = runpy.run_path(str(ROOT / "tools" / "title_picture.py"))
    assert tool["OUT"].read_bytes() == tool["picture"]()
    assert "book/_assets/opening.png" in (ROOT / "README.md").read_text(encoding="utf-8")
