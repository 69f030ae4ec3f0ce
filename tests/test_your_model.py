"""The page `your_model`: its examples run, one after the other as a reader would run them, and print what it says."""

import contextlib
import io
import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "book" / "your_model.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)


def test_every_example_says_what_it_prints():
    assert len(EXAMPLES) == PAGE.count("```python") == 6


def test_the_examples_print_what_the_page_says():
    names: dict = {}
    for number, (code, promised) in enumerate(EXAMPLES):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"your_model.md, example {number}", "exec"), names)
        assert printed.getvalue() == promised, code


def test_the_page_is_in_the_book_and_needs_no_network():
    assert "file: book/your_model" in (Path(__file__).parents[1] / "_toc.yml").read_text(encoding="utf-8")
    for word in ("from_pretrained", "hub.load", "download", "weights="):
        assert all(word not in code for code, _ in EXAMPLES)
