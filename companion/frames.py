"""What the package measured, as data frames of pandas: the extra of that name.

pip install 'adversarial-vulnerability[pandas]'
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from companion.arms_race import Matrix
    from companion.experiments.stored import Stored
    from companion.robustness import Radii

__all__ = ["to_frame"]


def to_frame(measured: Radii | Stored | Matrix | Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """A measurement as a data frame, its precision kept.

    Args:
        measured: one of
            `robustness.Radii`: a row an image, a column a radius; the witnesses, which have no fixed shape, stay out;
            `experiments.Stored`: the table as printed, a row a quantity, columns "bound" and the classifiers;
            `arms_race.Matrix`: a row for each victim, threat and attack, with its two accuracies and its distance;
            the rows that `experiments.table` returns: as of `Stored`.

    Raises:
        ImportError: pandas is not installed; names the extra.
        ValueError: for anything else.
    """
    from companion.arms_race import Matrix
    from companion.robustness import Radii

    try:
        import pandas
    except ImportError as error:
        install = "pip install 'adversarial-vulnerability[pandas]'"
        raise ImportError(f"to make a data frame, pandas is needed, the pandas extra: {install}") from error
    if isinstance(measured, Radii):
        names = ("latent", "in_distribution", "unconstrained")
        return pandas.DataFrame({name: getattr(measured, name).detach().cpu().numpy() for name in names})
    if isinstance(measured, Matrix):
        index = pandas.MultiIndex.from_tuples(
            product(measured.victims, measured.threats, measured.attacks), names=["victim", "threat", "attack"]
        )
        names = ("accuracy", "accuracy_l2", "distance")
        columns = {name: getattr(measured, name).flatten().cpu().numpy() for name in names}
        return pandas.DataFrame(columns, index=index)
    rows: Any = getattr(measured, "rows", measured)
    if isinstance(rows, dict):
        rows = [{"row": name, **row} for name, row in rows.items()]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "row" in row for row in rows):
        raise ValueError(f"measured must be Radii, a stored table, a Matrix or the rows of a table, got {measured!r}")
    return pandas.DataFrame(rows).set_index("row")
