"""The pages `your_model` and `scale`: their examples run as a reader would run them, and print what they say."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page, shown, run", [("your_model", 6, 6), ("scale", 4, 3)])
def test_the_examples_print_what_the_page_says(page, shown, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    examples = EXAMPLE.findall(text)
    # What prints nothing on the page is for a machine that we have not.
    assert text.count("```python") == shown and len(examples) == run
    names: dict = {"__name__": "__main__"}
    for number, (code, promised) in enumerate(examples):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page}.md, example {number}", "exec"), names)
        assert printed.getvalue() == promised, code


def test_the_pages_are_in_the_book_and_need_no_network():
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    for page in ("your_model", "scale"):
        assert f"file: book/{page}" in contents
        for code, _ in EXAMPLE.findall((ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")):
            assert not any(word in code for word in ("from_pretrained", "hub.load", "download", "weights="))
