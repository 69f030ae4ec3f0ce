"""Save the opening picture of the circle chapter for the title page: `python tools/title_picture.py`."""

import base64
import json
from pathlib import Path

BOOK = Path(__file__).parents[1] / "book"
PICTURE = BOOK / "_assets" / "circle.png"


def picture() -> bytes:
    """The PNG that the chapter's cell `circle-picture` has drawn."""
    cells = json.loads((BOOK / "circle.ipynb").read_text(encoding="utf-8"))["cells"]
    (cell,) = (cell for cell in cells if cell["id"] == "circle-picture")
    return base64.b64decode("".join(cell["outputs"][0]["data"]["image/png"]))


if __name__ == "__main__":
    PICTURE.write_bytes(picture())
