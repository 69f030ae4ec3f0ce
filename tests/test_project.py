"""The project's promises about itself: README, versions, addresses, house rules."""

import contextlib
import importlib.metadata
import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import companion

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def floors(requirements):
    """{"numpy": "2.0", ...} from lines such as numpy>=2.0."""
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in requirements)


def test_the_readme_prints_what_it_says():
    code = re.search(r"```python\n(.*?)```", text("README.md"), re.DOTALL)[1]
    promised = re.search(r"```text\n(.*?)```", text("README.md"), re.DOTALL)[1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == promised


def test_the_readmes_commands_exist_and_ci_runs_them():
    for command in re.findall(r"^make (\w+)", text("README.md"), re.MULTILINE):
        assert re.search(rf"^{command}:", text("Makefile"), re.MULTILINE)
        assert f"make {command}" in text(".ci/run")


def test_conda_and_pip_ask_for_the_same_versions():
    lines = yaml.safe_load(text("environment.yml"))["dependencies"]
    assert f"python={PROJECT['requires-python'].removeprefix('>=')}" in lines
    conda = floors(line for line in lines if ">=" in line)
    conda = {{"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}.get(k, k): v for k, v in conda.items()}
    wanted = floors(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["book"])
    build = tomllib.loads(text("pyproject.toml"))["build-system"]["requires"]
    assert conda == wanted | floors(build)


@pytest.mark.skipif(
    Path(sys.prefix).resolve() != ROOT / ".venv", reason="only what make installs is pinned; this is another Python"
)
def test_what_is_installed_is_what_is_pinned():
    pinned = dict(line.split("==") for line in text("constraints.txt").splitlines() if "==" in line)
    installed = {
        re.sub(r"[-_.]+", "-", package.name).lower(): package.version.split("+")[0]
        for package in importlib.metadata.distributions()
    }
    for name in ("pip", "adversarial-vulnerability"):
        installed.pop(name)
    normal = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    shared = installed.keys() & normal.keys()
    assert {name: installed[name] for name in shared} == {name: normal[name] for name in shared}
    # Without a pin come only the parts that PyTorch's wheels ask for themselves, in exact versions.
    assert all(re.match("nvidia-|cuda-|triton$", name) for name in installed.keys() - shared)


def test_one_address():
    address = CONFIG["repository"]["url"]
    assert PROJECT["urls"]["Repository"] == address
    for name in ("CITATION.cff", "CONTRIBUTING.md", "README.md"):
        assert set(re.findall(r"https://github\.com/adv[\w-]+/[\w-]+", text(name))) == {address}


def test_one_version():
    assert yaml.safe_load(text("CITATION.cff"))["version"] == companion.__version__
    assert f"\n## {companion.__version__}" in text("CHANGELOG.md")


def chapters():
    parts = yaml.safe_load(text("_toc.yml"))["parts"]
    files = [chapter["file"] for part in parts for chapter in part["chapters"]]
    return [Path(file).name for file in files if (ROOT / f"{file}.ipynb").is_file()]


@pytest.mark.parametrize("name", chapters())
def test_a_chapter_has_a_module_and_a_test_file(name):
    if name in ("opening", "conclusion"):  # they ask and answer for all the others
        return
    name = {"svhn": "experiments", "cifar10": "experiments"}.get(name, name)
    if name != "isoperimetry":  # a proof, whose few checks stand on the page
        assert any((ROOT / "companion" / path).exists() for path in (f"{name}.py", f"{name}/__init__.py"))
    assert (ROOT / "tests" / f"test_{name}.py").is_file()


def test_every_notebook_is_in_the_book():
    assert {path.stem for path in (ROOT / "book").glob("*.ipynb")} == set(chapters())


def test_the_map_in_the_opening_shows_every_chapter_of_the_theory():
    assert ":file: _assets/map.svg" in text("book/opening.ipynb")
    links = re.findall(r'href="(\w+)\.html', text("book/_assets/map.svg"))
    # The others ask the question that the theorems answer, or sum up.
    assert set(links) == set(chapters()) - {"opening", "arms_race", "conclusion"}


def test_next_leads_from_the_title_page_to_where_it_says_to_begin():
    assert "Begin with {doc}`opening`" in text("book/index.md") and chapters()[0] == "opening"


def test_references_are_in_order_and_what_is_cited_is_there():
    keys = re.findall(r"^@\w+\{([^,]+),", text("book/references.bib"), re.MULTILINE)
    assert keys == sorted(set(keys))
    pages = [text(path) for path in (ROOT / "book").rglob("*") if path.suffix in (".ipynb", ".md")]
    cited = {key for page in pages for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", page) for key in keys.split(",")}
    assert len(cited) > 40 and cited <= set(keys)


def test_ruff_is_clean():
    found = subprocess.run([sys.executable, "-m", "ruff", "check", ROOT], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
