"""The chapters as files: executed, tidy, described; and nbval, which runs them, really compares and measures."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def first_cell():
    """The code that CONTRIBUTING.md prescribes."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)\n```", text, re.DOTALL)[1]


def test_there_are_chapters():
    assert NOTEBOOKS


@every_notebook
def test_executed_once_from_top_to_bottom_without_complaint(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"


@every_notebook
def test_no_larger_than_it_need_be(path):
    assert path.stat().st_size < 1_000_000
    for cell in code_cells(path)[1:]:
        lines = [line for line in source(cell).splitlines() if line.strip()]
        assert len(lines) <= 15, source(cell)
        assert max(map(len, lines), default=0) <= 100, source(cell)  # 75 in tests/test_story.py, chapter by chapter


@every_notebook
def test_nothing_that_differs_from_run_to_run(path):
    notebook = read(path)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert "version" not in notebook["metadata"]["language_info"]
    assert all(set(cell["metadata"]) <= {"tags", "mystnb"} for cell in notebook["cells"])
    assert "widget-view" not in path.read_text(encoding="utf-8")
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@every_notebook
def test_the_first_cell_is_colabs(path):
    cell = code_cells(path)[0]
    assert source(cell) == first_cell()
    assert cell["metadata"]["tags"] == ["remove-cell"] and cell["outputs"] == []


@every_notebook
def test_every_picture_is_described(path):
    for cell in code_cells(path):
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            description = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(description) >= 40, source(cell)


def in_a_fresh_process(code):
    """What the code prints where no variable says how many threads there may be."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_first_cell_asks_for_one_thread_and_no_install():
    plain = "\n".join(line for line in first_cell().splitlines() if "%pip" not in line)
    assert in_a_fresh_process(f"{plain}\nimport torch; print(torch.get_num_threads())") == "1\n"


def test_the_first_cell_stops_where_the_package_could_not_be_installed():
    from IPython.core.interactiveshell import InteractiveShell

    # What pip is asked for is left out; the package is missing before and after.
    cell = re.sub(r"%pip .*", "pass", first_cell()).replace('"companion"', '"companion_of_nobody"')
    shell = InteractiveShell()
    found = shell.run_cell(cell)
    assert isinstance(found.error_in_exec, SystemExit) and "was not installed" in str(found.error_in_exec)
    assert shell.run_cell(first_cell()).success


def nbval(folder, notebook):
    """The outcome of nbval's run of one notebook in a folder."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env", notebook]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("memory, seconds, text", [("2e8", 60, "0.2 GB"), ("1.2e9", 0.01, "0.01 s")])
def test_a_notebook_that_takes_too_much_fails(tmp_path, memory, seconds, text):
    pytest.importorskip("nbval")
    limits = (ROOT / "book" / "conftest.py").read_text(encoding="utf-8")
    assert "MEMORY, SECONDS = 1.7e9, 90\n" in limits
    limits = limits.replace("MEMORY, SECONDS = 1.7e9, 90\n", f"MEMORY, SECONDS = {memory}, {seconds}\n")
    (tmp_path / "conftest.py").write_text(limits, encoding="utf-8")
    cell = {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": []}
    cell["source"] = "x = b'x' * 240_000_000"
    greedy = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
    (tmp_path / "greedy.ipynb").write_text(json.dumps(greedy), encoding="utf-8")
    found = nbval(tmp_path, "greedy.ipynb")
    assert "1 failed, 1 passed" in found.stdout and text in found.stdout, found.stdout


def test_the_page_of_times_has_every_chapter():
    text = (ROOT / "book" / "times.md").read_text(encoding="utf-8")
    took = re.findall(r"^\| \{doc\}`(\w+)` \| \d+ \|", text, re.MULTILINE)
    assert sorted(took) == [path.stem for path in NOTEBOOKS], "run: make times"


@pytest.mark.parametrize(("key", "digit"), [("text", r"\d"), ("text/html", r"\d(?=</td>)")], ids=["printed", "table"])
def test_nbval_notices_one_changed_digit(key, digit, tmp_path):
    pytest.importorskip("nbval")
    notebook = read(ROOT / "book" / "circle.ipynb")
    last, holder = next(
        (number, holder)
        for number, cell in enumerate(notebook["cells"])
        for output in cell.get("outputs", [])
        for holder in (output, output.get("data", {}))
        if re.search(digit, "".join(holder.get(key, "")))
    )
    holder[key] = re.sub(digit, lambda found: str(9 - int(found[0])), "".join(holder[key]), count=1)
    notebook["cells"] = [cell for cell in notebook["cells"][: last + 1] if cell["cell_type"] == "code"]
    changed = tmp_path / "changed.ipynb"
    changed.write_text(json.dumps(notebook), encoding="utf-8")
    found = nbval(tmp_path, changed)
    assert found.returncode == 1
    assert f"1 failed, {len(notebook['cells']) - 1} passed" in found.stdout, found.stdout
