"""Save the picture of the opening, for the title page and the README: `python tools/title_picture.py`."""

import base64
import json
from pathlib import Path

BOOK = Path(__file__).parents[1] / "book"
OUT = BOOK / "_assets" / "opening.png"


def picture() -> bytes:
    """The PNG that the cell `opening-sum` has drawn."""
    cells = json.loads((BOOK / "opening.ipynb").read_text(encoding="utf-8"))["cells"]
    (cell,) = (cell for cell in cells if cell["id"] == "opening-sum")
    return base64.b64decode("".join(cell["outputs"][0]["data"]["image/png"]))


if __name__ == "__main__":
    OUT.write_bytes(picture())
