"""Data frames of what was measured; and one clear sentence where pandas is missing."""

import importlib
import sys

import pandas
import pytest
import torch

from companion import arms_race, circle, experiments, frames, robustness


def measured():
    z = torch.tensor([[0.3], [1.0], [-0.7]], dtype=torch.float64)
    return robustness.radii(circle.Circle(), circle.HalfPlane([1.0, 0.0], 0.2), z)


def test_radii_are_the_columns_and_images_the_rows():
    radii = measured()
    frame = radii.to_frame()
    assert list(frame.columns) == ["latent", "in_distribution", "unconstrained"]
    for name in frame.columns:
        assert torch.equal(torch.from_numpy(frame[name].to_numpy(copy=True)), getattr(radii, name))
    assert (frame["unconstrained"] <= frame["in_distribution"] + 1e-12).all()


def test_single_precision_stays_single():
    radii = robustness.Radii(*[torch.ones(2)] * 3, *[torch.ones(2, 3)] * 3)
    assert set(map(str, radii.to_frame().dtypes)) == {"float32"}


def test_the_shipped_table_keeps_rows_columns_and_numbers():
    table = experiments.stored("cifar10")
    frame = frames.to_frame(table)
    assert list(frame.index) == list(table.rows)
    for name, row in table.rows.items():
        for column, number in row.items():
            found = frame.loc[name, column]
            assert pandas.isna(found) if number is None else found == number
    # The rows that `experiments.table` returns are the same table.
    assert frames.to_frame([{"row": name, **row} for name, row in table.rows.items()]).equals(frame)


def test_the_matrix_has_a_row_for_each_entry():
    matrix = arms_race.load("digits")
    frame = frames.to_frame(matrix)
    assert len(frame) == matrix.accuracy.numel()
    for victim in matrix.victims:
        place = victim, "white box, naive", "FGSM"
        assert tuple(frame.loc[place, ["accuracy", "distance"]]) == pytest.approx(matrix.at(*place), nan_ok=True)


@pytest.mark.parametrize("wrong", [3, torch.ones(2), [{"no": "row"}], "radii"])
def test_anything_else_is_refused(wrong):
    with pytest.raises(ValueError, match="measured must be"):
        frames.to_frame(wrong)


def test_without_pandas_the_error_names_the_extra(monkeypatch):
    radii = measured()
    # None in sys.modules makes an import fail as if the module were not installed.
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pandas extra: pip install 'adversarial-vulnerability\[pandas\]'"):
        radii.to_frame()


def test_the_package_imports_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    importlib.reload(frames)
