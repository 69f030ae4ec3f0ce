"""The benchmark's own honesty: it counts every pass, believes no image, and says when something failed."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import measure, page  # noqa: E402


def linear() -> nn.Module:
    """Class 1 where the first pixel exceeds 0.5."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    model[1].weight.data = torch.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0]])
    model[1].bias.data = torch.tensor([0.5, 0.0])
    return model


def clean(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((n, 1, 2, 2), 0.25), torch.zeros(n, dtype=torch.long)


def test_passes_are_counted_in_rows():
    counted, (x, _) = measure.Counted(linear()), clean()
    with torch.no_grad():
        counted(x)
    assert (counted.forward_rows, counted.backward_rows) == (8, 0)
    few = x[:3].clone().requires_grad_()
    logits = counted(few)
    torch.autograd.grad(logits[:, 0].sum(), few, retain_graph=True)
    torch.autograd.grad(logits[:, 1].sum(), few)
    # Two gradients of one forward pass are two backward passes.
    assert (counted.forward_rows, counted.backward_rows) == (11, 6)


def test_an_attack_is_charged_for_what_it_does():
    def attack(classifier, x, y):
        for _ in range(3):
            point = x.clone().requires_grad_()
            classifier(point).sum().backward()
        x[:, 0, 0, 0] = 0.75
        return x

    model, (x, y) = linear(), clean()
    found = measure.outcome(attack, model, x, y)
    assert (found.forward, found.backward) == (3, 3) and found.seconds > 0
    torch.testing.assert_close(found.distance, torch.full((8,), 0.5))
    assert (x == 0.25).all()


def test_no_image_is_believed():
    model, (x, y) = linear(), clean()
    adversarial = x.clone()
    adversarial[:, 0, 0, 0] = 0.75
    adversarial[0, 0, 0, 0] = 0.49  # still class 0
    adversarial[1, 0, 0, 0] = math.nan
    adversarial[2, 0, 1, 1] = 1.5  # outside of the box
    adversarial[3, 0, 1, 1] = math.inf
    distance = measure.distances(model, x, y, adversarial)
    assert distance[:4].isinf().all()
    torch.testing.assert_close(distance[4:], torch.full((4,), 0.5))


def test_rounding_beyond_the_box_is_forgiven_but_not_counted_on():
    """An image that is adversarial only because it leaves the box is put back, and is none."""
    model, (x, y) = linear(), clean()
    model[1].bias.data = torch.tensor([1.0, 0.0])  # class 1 where the pixel exceeds 1
    adversarial = x.clone()
    adversarial[:, 0, 0, 0] = 1 + 5e-7
    assert (model(adversarial).argmax(1) == 1).all()
    assert measure.distances(model, x, y, adversarial).isinf().all()


def test_a_verdict_that_hangs_on_the_batch_does_not_count():
    def moody(x):
        over = torch.full((len(x),), 1.0 if len(x) > 2 else -1.0)
        return torch.stack([-over, over], 1)

    x, y = clean()
    assert measure.distances(moody, x, y, x + 0.1).isinf().all()


def test_a_wrong_shape_is_refused():
    x, y = clean()
    with pytest.raises(ValueError, match="adversarial must have the shape of x"):
        measure.distances(linear(), x, y, x[:3])


def test_failures_spoil_the_mean_and_not_the_success_rate_alone():
    distance, best = torch.tensor([1.0, 2.0, math.inf, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.99])
    found = measure.summary(distance, best)
    assert found == {"success": 0.75, "median": 1.0, "mean": math.inf, "near": 0.5}


def results() -> dict:
    row = dict(forward=10.0, backward=10.0, milliseconds=1.0)
    rows = [
        row | {"library": "this book", "attack": "minimal_l2", "distances": [1.0, 1.0]},
        row | {"library": "a", "attack": "A", "distances": [1.5, None]},
        row | {"library": "b", "attack": "B", "distances": [2.0, 0.9]},
    ]
    about = {"date": "2026-01-01", "machine": "m", "device": "cpu", "versions": {"torch": "2"}, "images": 2}
    return {"attacks": {"digits/cnn|real|10": rows}, "radius": {}, "jacobian": {}, "about": {"attacks": about}}


def test_the_table_names_the_best_peer_and_hides_no_failure():
    rows = page.table(results())
    mine, median, mean = page.best_peer(rows, "digits/cnn", "real", "10")
    assert mine["attack"] == "minimal_l2" and mine["near"] == 0.5
    # A failure is an infinite distance: A has no mean.
    assert median["attack"] == "B" and mean["attack"] == "B"
    assert rows[1]["success"] == 0.5 and rows[1]["mean"] == math.inf
    text = page.markdown(results(), rows)
    assert "| this book | minimal_l2 | 10 | 100% |" in text and "| a | A | 10 | 50% |" in text


def test_the_stored_results_are_the_page():
    """results.md and results.csv say what results.json holds; every attack of ours succeeded everywhere."""
    stored = json.loads((page.HERE / "results.json").read_text(encoding="utf-8"))
    rows = page.table(stored)
    assert page.markdown(stored, rows) == (page.HERE / "results.md").read_text(encoding="utf-8")
    lines = (page.HERE / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(rows) + 1 and lines[0] == ",".join(page.FIELDS)
    mine = [row for row in rows if row["attack"] == "minimal_l2"]
    assert mine and all(row["success"] == 1 for row in mine)
    # The budget is kept.
    assert all(row["backward"] <= int(row["budget"]) for row in mine)
