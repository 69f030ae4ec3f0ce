"""The paper's theorems and equations keep the paper's numbers; everything else is counted without them.

`paper_numbers` in `_config.yml` gives the numbers by label. Headings, references and equations then read "Theorem 1"
and "(4)", in whatever chapter they stand.
"""

from __future__ import annotations

from sphinx.util import logging

logger = logging.getLogger(__name__)


def _number(app, env):
    wanted = dict(app.config.paper_numbers)
    for kinds in env.toc_fignumbers.values():
        for numbers in kinds.values():
            papers = 0
            for name, number in numbers.items():
                label = name.removeprefix("equation-")
                if label in app.config.paper_numbers:
                    papers += 1
                    numbers[name] = (wanted.pop(label, number[-1]),)
                else:
                    numbers[name] = (*number[:-1], number[-1] - papers)
    for label in wanted:
        logger.warning("paper_numbers: nothing has the label %r", label, type="paper_numbers")
    return []


def setup(app):
    app.add_config_value("paper_numbers", {}, "env")
    app.connect("env-get-updated", _number, priority=900)  # after Sphinx has counted
    return {"parallel_read_safe": True, "parallel_write_safe": True}
