"""The paper's result tables: its own numbers, and ours: `python -m companion table cifar10` and `table svhn`."""

from companion.experiments.report import summarise
from companion.experiments.stored import DECK, Stored, stored
from companion.experiments.table import TABLES, table

__all__ = ["DECK", "TABLES", "Stored", "stored", "summarise", "table"]
