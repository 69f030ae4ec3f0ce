"""What a user runs first on a new GPU: it passes on the CPU, and fails where something differs or is lost."""

import inspect

import pytest
import torch

from companion import (
    approximation,
    attacks,
    check,
    circle,
    defences,
    projection,
    robustness,
    smoothness,
    tightness,
    transferability,
    vulnerability,
)
from companion.__main__ import main
from companion.check import cases

GROUPS = ("formulas", "networks", "convolutions", "searches", "promises")


@pytest.fixture
def only(monkeypatch):
    """Leaves of the table only the groups that are named, which saves a minute."""

    def keep(*names):
        for name in set(GROUPS) - set(names):
            monkeypatch.setattr(cases, name, lambda at: {})

    return keep


def test_the_cpu_passes(capsys):
    main(["check"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["difference", "tolerance", "seconds"]
    assert len({line.index("  ok") for line in lines[1:-1]}) == 1  # a column
    assert lines[-1].startswith(f"cpu: {len(lines) - 2} of {len(lines) - 2} as they should be")


def test_every_function_of_the_theory_is_asked():
    source = inspect.getsource(cases)
    modules = (approximation, circle, projection, robustness, smoothness, tightness, transferability, vulnerability)
    names = {
        f"{module.__name__.split('.')[-1]}.{name}"
        for module in modules
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    names |= {f"attacks.{name}" for name in attacks.__all__} | {f"defences.{name}" for name in defences.__all__}
    missing = {name for name in names if not any(f"{name}{after}" in source for after in "(,)")}
    # A class of results, and two functions of plain numbers.
    assert missing == {"defences.Diagnosis", "tightness.half_space", "tightness.simplex_perimeter"}


def rounded(function):
    """What a device would return that keeps ten bits of float32, as TF32 does."""

    def less_exact(*arguments, **options):
        value = function(*arguments, **options)
        return value.half().float() if value.dtype == torch.float32 else value

    return less_exact


def test_a_difference_is_found_and_named(only, monkeypatch, capsys):
    only("formulas")
    monkeypatch.setattr(vulnerability, "robustness_quantile", rounded(vulnerability.robustness_quantile))
    with pytest.raises(SystemExit) as end:
        main(["check", "--device", "cpu"])
    assert end.value.code == "Not as they should be: float32 robustness_quantile"
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "DIFFERS" in line)
    assert line.split()[:2] == ["float32", "robustness_quantile"] and 1e-5 < float(line.split()[2]) < 1e-3


def test_what_raises_or_is_elsewhere_is_a_row(only, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no such kernel\nand a long story")

    only("formulas")
    monkeypatch.setattr(vulnerability, "expected_latent_radius", broken)
    monkeypatch.setattr(tightness, "simplex_law", lambda t, k: t.to("meta"))
    rows = {row.name: row for row in check.run(samples=4)}
    failed = {name: row.error for name, row in rows.items() if not row.passed}
    assert failed.keys() == {"float32 expected_latent_radius", "float32 simplex_law"}
    assert failed["float32 expected_latent_radius"] == "RuntimeError: no such kernel"


def test_radii_that_are_longer_or_missing_are_found(only, monkeypatch):
    def longer(*arguments, **options):
        value = real(*arguments, **options)
        return value * 1.1 if value.dtype == torch.float32 else value

    def missing(*arguments, **options):
        value = longer(*arguments, **options)
        return value.index_fill(0, torch.tensor([0]), torch.inf) if value.dtype == torch.float32 else value

    real = robustness.unconstrained_radius
    only()
    for wrong, expected in ((real, 0.0), (longer, 0.1), (missing, torch.inf)):
        monkeypatch.setattr(cases, "searches", lambda at, f=wrong: {"r_unc": lambda: f(at.f, at.x, steps=5)})
        (row,) = check.run(samples=4)
        assert row.difference == pytest.approx(expected, abs=1e-4) and row.passed == (wrong is real)


@pytest.mark.parametrize("compare", [check._largest, check._typical])
def test_nan_and_a_lone_infinity_are_no_agreement(compare):
    one = torch.tensor([1.0, 2.0, torch.inf], dtype=torch.float64)
    assert compare(one, one) == 0
    for wrong in ([1.0, 2.0, torch.nan], [1.0, torch.inf, torch.inf], [1.0, 2.0, 3.0], [1.0, 2.0]):
        assert compare(torch.tensor(wrong).double(), one) == torch.inf


def test_a_witness_that_flips_alone_is_lost():
    x, witness = torch.zeros(4, 1), torch.ones(4, 1)

    def shaky(points):
        """By itself, a row is classified as if it had not been moved."""
        score = points[:, 0] - 0.5 if len(points) > 1 else points[:, 0] - 1.5
        return torch.stack([0 * score, score], 1)

    def steady(points):
        return torch.stack([0 * points[:, 0], points[:, 0] - 0.5], 1)

    assert cases.lost(steady, x, witness) == 0
    assert cases.lost(steady, x, torch.cat([witness[:3], x[3:]])) == 0.25
    assert cases.lost(shaky, x, witness) == 1


def test_waits_are_counted():
    x = torch.arange(4.0)
    assert cases.waits(lambda: x.sum() + x[1:].max()) == 0
    assert cases.waits(lambda: x.sum().item()) == 1
    assert cases.waits(lambda: bool(x.any())) == 1
    assert cases.waits(lambda: torch.nonzero(x)) == 1
    assert cases.waits(lambda: x[x > 1]) >= 1
    assert cases.waits(lambda: x[torch.tensor([0, 1])]) == 0


@pytest.mark.parametrize("device", ["gpu9", "meta", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_device_that_cannot_be_used_is_one_line(device):
    with pytest.raises(SystemExit) as end:
        main(["check", "--device", device])
    assert end.value.code.startswith(
        f"python -m companion check: device must be one that this PyTorch computes in float64 on, got '{device}': "
    )
    assert "\n" not in end.value.code
