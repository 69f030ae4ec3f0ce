"""Execute notebooks and save their outputs in place: `python tools/execute.py book/circle.ipynb ...`.

What would differ from run to run without meaning anything (times, widget ids, versions) is left out, so that
a second execution on the same machine changes nothing; on another one, pictures may differ in some pixels.
"""

from __future__ import annotations

import base64
import io
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> float:
    """Execute the notebook at `path`, save it, and say how many seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=600,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    seconds = time.perf_counter() - start
    tidy(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    return seconds


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Keep of the metadata what readers and tools need."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in ("tags", "mystnb")}
        )
        for output in cell.get("outputs", []):
            if "data" in output:
                output.data.pop(_WIDGET_VIEW, None)
                output.metadata.pop(_WIDGET_VIEW, None)
                if "image/png" in output.data:
                    output.data["image/png"] = smaller(output.data["image/png"])


def smaller(png: str) -> str:
    """A figure (base64) in 256 colours of its own, a third of its size; what already is so stays as it is.

    Photographs are dithered: without it one sees the steps between the colours.
    """
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P":
        return png
    picture = picture.convert("RGB")
    small = picture.quantize(256, dither=Image.Dither.NONE)
    if picture.getcolors(20_000) is None:
        small = picture.quantize(palette=small, dither=Image.Dither.FLOYDSTEINBERG)
    written = io.BytesIO()
    small.save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode() + "\n"


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("no notebooks to execute")
    for name in sys.argv[1:]:
        print(f"{name}: {execute(Path(name)):.1f} s")
