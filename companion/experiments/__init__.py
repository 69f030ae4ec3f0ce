"""The deck's result tables, measured anew: `python -m companion table cifar10` and `table svhn`."""

from companion.experiments.report import summarise
from companion.experiments.table import TABLES, table

__all__ = ["TABLES", "summarise", "table"]
