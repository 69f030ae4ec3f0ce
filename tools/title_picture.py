"""Save two chapters' opening pictures, for the title page and the README: `python tools/title_picture.py`."""

import base64
import json
from pathlib import Path

BOOK = Path(__file__).parents[1] / "book"
# The file -> the chapter, and the cell that has drawn it.
PICTURES = {"opening.png": ("opening", "opening-sum"), "circle.png": ("circle", "circle-picture")}


def picture(chapter: str, cell_id: str) -> bytes:
    """The PNG that a chapter's cell has drawn."""
    cells = json.loads((BOOK / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    (cell,) = (cell for cell in cells if cell["id"] == cell_id)
    return base64.b64decode("".join(cell["outputs"][0]["data"]["image/png"]))


if __name__ == "__main__":
    for name, place in PICTURES.items():
        (BOOK / "_assets" / name).write_bytes(picture(*place))
