"""Run every chapter, and write what each took to the page book/times.md: `python tools/times.py`."""

from __future__ import annotations

import datetime
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "book" / "times.md"
# The kernel's own account, as a last cell: the processor's seconds from its start, and its largest memory in kB.
ASK = r"""import re, time
print(time.process_time(), re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])"""
TEXT = """# What a chapter takes

Every chapter, run from its first cell to its last. Seconds are those that one processor worked for it, with the start
of Python; memory is the most that it held at once. Binder lends one processor and 2 GB.

| chapter | seconds | GB |
|---|--:|--:|
{rows}
| together | {total} | |

Measured by `make times` on {day}, on {machine}, with Python {python} and PyTorch {torch}. Meanwhile {load:.0f} programs
wanted its {cores} processors at a time; an idle machine is faster.
"""


def chapters() -> list[str]:
    """The names of the notebooks, in the order of the book."""
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    names = [Path(chapter["file"]).name for part in parts for chapter in part["chapters"]]
    return [name for name in names if (ROOT / "book" / f"{name}.ipynb").is_file()]


def measured(name: str) -> tuple[float, float]:
    """Processor seconds and largest memory in GB of one chapter, which is run and not saved."""
    notebook = nbformat.read(ROOT / "book" / f"{name}.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    resources = {"metadata": {"path": str(ROOT / "book")}}
    NotebookClient(notebook, kernel_name="python3", timeout=600, resources=resources).execute()
    seconds, memory = notebook.cells[-1].outputs[0].text.split()
    return float(seconds), 1024 * int(memory) / 1e9


def machine() -> str:
    """The processor's name, if the system tells it."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else platform.machine()


def page(took: dict[str, tuple[float, float]]) -> str:
    """The page that says what each chapter took."""
    rows = [f"| {{doc}}`{name}` | {seconds:.0f} | {memory:.1f} |" for name, (seconds, memory) in took.items()]
    return TEXT.format(
        rows="\n".join(rows),
        total=sum(round(seconds) for seconds, _ in took.values()),
        day=datetime.date.today(),
        machine=machine(),
        python=platform.python_version(),
        torch=version("torch"),
        load=os.getloadavg()[2],
        cores=os.cpu_count(),
    )


if __name__ == "__main__":
    os.environ.pop("OMP_NUM_THREADS", None)  # as for a reader: the first cell sets it
    took = {}
    for chapter in chapters():
        took[chapter] = measured(chapter)
        print(chapter, "{:.0f} s, {:.1f} GB".format(*took[chapter]), flush=True)
    PAGE.write_text(page(took), encoding="utf-8")
