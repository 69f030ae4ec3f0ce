"""The benchmark's own honesty: it counts every pass, believes no image, and says when something failed."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import attacks, compare, measure, page  # noqa: E402


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
    distance, best = torch.tensor([1.0, 2.0, math.inf, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.985])
    found = measure.summary(distance, best)
    assert (found["success"], found["median"], found["mean"]) == (0.75, 1.0, math.inf)
    assert (found["near1"], found["near2"]) == (0.25, 0.5)


def test_optimality_is_the_area_between_the_curves():
    """Against the definition: robust accuracy integrated over a fine grid of radii, up to where the best curve ends."""
    best = torch.linspace(0.1, 1, 50, dtype=torch.float64)
    distance = best * torch.linspace(1, 1.4, 50)
    distance[7] = torch.inf
    radii = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    area, least = ((radii[:, None] < d).double().mean(1).mean() for d in (distance, best))
    assert measure.optimality(distance, best) == pytest.approx(((1 - area) / (1 - least)).item(), abs=1e-5)
    assert measure.optimality(best, best) == 1
    assert measure.optimality(torch.full_like(best, torch.inf), best) == 0


def row(attack: str, distances: list, passes: float, library: str = "a") -> dict:
    costs = dict(forward=passes / 2, backward=passes / 2, milliseconds=1.0, date="2026-01-01", machine="m")
    return {"library": library, "attack": attack, "distances": distances} | costs


def ours(distances: list, passes: float) -> dict:
    return row("minimal_l2", distances, passes, library="this book")


def results(rows: dict) -> dict:
    about = {"date": "2026-01-01", "machine": "m", "versions": {"torch": "2"}}
    stored = {f"digits/cnn|real|{budget}": entries for budget, entries in rows.items()}
    return {"attacks": stored, "radius": {}, "jacobian": {}, "about": {"attacks": about}}


def few() -> dict:
    return results(
        {
            10: [ours([1.0, 1.0], 50), row("A", [1.5, None], 20), row("B", [2.0, 0.9], 20)],
            100: [ours([0.8, 1.0], 240), row("A", [0.8, 0.9], 200), row("B", [0.7, 1.3], 200, library="b")],
            1000: [ours([0.7, 0.9], 1700), row("A", [0.8, 0.9], 2000)],
            None: [row("slow", [0.6], 90)],
        }
    )


def test_the_best_peer_took_no_more_passes_and_failed_nowhere():
    rows = compare.table(few())
    assert compare.within(rows, 19, "mean", compare.peer) is None
    assert compare.within(rows, 20, "mean", compare.peer)["attack"] == "B"
    # A failure is an infinite distance, and an attack that ran on some of the images only is none that can be compared.
    assert compare.within(rows, 199, "median", compare.peer)["attack"] == "B"
    assert compare.within(rows, 200, "mean", compare.peer)["attack"] == "A"
    assert compare.within(rows, 239, "mean", compare.ours)["passes"] == 50


def test_a_pool_is_as_good_as_its_best_member_on_every_image_and_pays_for_all():
    rows = compare.table(few())
    for gradients in (10, 100, 1000):
        for who in (compare.peer, lambda row: True):
            found = compare.pool(rows, gradients, "pool", who)
            members = [row for row in rows if who(row) and row["backward"] <= gradients]
            for member in members:
                n = member["n"]
                assert (found["distance"][:n] <= member["distance"]).all()
                assert not member["whole"] or all(found[key] <= member[key] for key in ("mean", "median"))
                assert all(found[key] >= member[key] for key in ("success", "near2")) or n < 2
            assert found["passes"] == sum(member["passes"] for member in members)
    assert compare.pool(rows, 100, "pool", compare.peer)["distance"].tolist() == [0.6, 0.9]


def test_the_spans_are_what_one_finds_at_every_number_of_passes():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        draw = lambda n: torch.rand(n, generator=generator).round(decimals=1).add(0.1).tolist()  # noqa: E731
        passes = torch.randint(10, 400, (9,), generator=generator).tolist()
        kinds = [ours(draw(4), p) for p in passes[:3]] + [row(f"P{p}", draw(4), p) for p in passes[3:]]
        rows = compare.table(results(dict(enumerate([kind] for kind in kinds))))
        for statistic in ("mean", "median"):
            spans, said = compare.spans(rows, statistic), compare.sentence(rows, statistic)
            for limit in range(60, 450):
                able = [r for r in rows if r["passes"] <= limit]
                mine = min((r[statistic] for r in able if compare.ours(r)), default=math.inf)
                best = min((r[statistic] for r in able if compare.peer(r)), default=math.inf)
                here = [span for span in spans if span.start <= limit < span.end]
                if mine == best == math.inf:
                    assert not here
                    continue
                assert len(here) == 1 and (here[0].leader == compare.OURS) == (mine <= best)
                lead = max(mine, best) / min(mine, best) - 1
                assert here[0].least <= lead <= here[0].most
                if best < mine:
                    assert f"*{here[0].leader[1]}*" in said
                    assert any(r["attack"] == here[0].leader[1] and r[statistic] == best for r in able)
            assert ("a peer is ahead" in said) == any(span.leader != compare.OURS for span in spans)


def test_the_sentences_say_who_is_ahead():
    rows = compare.table(few())
    assert compare.sentence(rows, "mean") == (
        "By the mean a peer is ahead: *A* (a) from 200 to 1,700 passes, by 5.9 % to 17.6 %; `minimal_l2` elsewhere."
    )
    mine, others = compare.at(rows, 1000), compare.pool(rows, 1000, "pool", compare.peer)
    assert compare.pooled_sentence(mine, others) == (
        "`minimal_l2` is behind by 6.7 % by the mean and behind by 16.7 % by the median."
    )
    text = page.markdown(few(), rows)
    assert compare.sentence(rows, "mean") in text and compare.pooled_sentence(mine, others) in text
    assert "| a | slow (first 1 images) | – | 100% |" in text


def test_a_failing_row_is_shown_as_one():
    stored = results({100: [ours([1.0, 1.0], 240), row("A", [0.5, None], 200)]})
    rows = compare.table(stored)
    assert "| a | A | 100 | 50% | 0.5000 | – |" in page.markdown(stored, rows)
    assert compare.sentence(rows, "mean").startswith("By the mean `minimal_l2` is ahead from 60 passes up")
    rows = compare.table(results({100: [ours([1.0, None], 240), row("A", [0.5, None], 200)]}))
    assert compare.sentence(rows, "mean") == "By the mean nobody is ahead: every attack failed somewhere."
    assert compare.sentence(rows[1:], "mean") == "By the mean nobody is ahead: `minimal_l2` has not been measured."


def moved(classifier, x, y):
    """An attack that takes one gradient, and moves the first pixel over the boundary."""
    point = x.clone().requires_grad_()
    classifier(point).sum().backward()
    x[:, 0, 0, 0] = 0.75
    return x


@pytest.fixture
def small(monkeypatch):
    """A benchmark of one classifier, two budgets, an attack of ours and one of a peer."""
    x, y = clean()
    monkeypatch.setattr(attacks, "cases", lambda options: [attacks.Case("digits/toy", "real", linear(), x, y)])
    monkeypatch.setattr(attacks, "BUDGETS", {"digits": (10,)})
    monkeypatch.setattr(attacks, "OURS", {"digits": (10, 20)})
    mine, peer = {compare.OURS: moved}, {("a", "A"): moved}
    found = {10: {None: mine | peer, "ours": mine, "peers": peer}, 20: {None: mine, "ours": mine, "peers": {}}}
    monkeypatch.setattr(attacks, "calls", lambda family, budget, classes, only: found[budget][only] if budget else {})


def options(**given) -> Namespace:
    return Namespace(**(dict(only=None, on="", most=None, device="cpu", images=None, repeats=1, fresh=False) | given))


def test_ours_is_measured_alone_and_again(small):
    stored, saved = {"attacks": {}}, []
    attacks.run(stored, options(), lambda: saved.append(1))
    key = "digits/toy|real|10"
    assert [r["attack"] for r in stored["attacks"][key]] == ["minimal_l2", "A"] and saved
    for entries in stored["attacks"].values():
        for entry in entries:
            entry["date"] = "then"
    # Nothing is measured twice ...
    attacks.run(stored, options(), lambda: None)
    assert {r["date"] for entries in stored["attacks"].values() for r in entries} == {"then"}
    # ... unless afresh, and then only what was asked for.
    attacks.run(stored, options(only="ours", fresh=True), lambda: None)
    dates = {r["attack"]: r["date"] for entries in stored["attacks"].values() for r in entries}
    assert dates["A"] == "then" and dates["minimal_l2"] != "then"
    assert len(stored["attacks"][key]) == 2 and len(stored["attacks"]["digits/toy|real|20"]) == 1


def test_large_budgets_can_be_left_for_later(small):
    stored = {"attacks": {}}
    attacks.run(stored, options(most=10), lambda: None)
    assert stored["attacks"]["digits/toy|real|10"] and "digits/toy|real|20" not in stored["attacks"]


def test_numbers_of_images_are_not_mixed(small):
    stored = {"attacks": {"digits/toy|real|10": [row("A", [1.0] * 5, 20)]}}
    with pytest.raises(ValueError, match="images must be 5, as in the stored rows of digits/toy|real|10, got 8"):
        attacks.run(stored, options(), lambda: None)


def test_rows_of_another_network_are_not_mixed_in(small):
    stored = {"attacks": {"digits/toy|real|10": [row("A", [1.0] * 8, 20)]}, "networks": {"digits/toy": "another"}}
    with pytest.raises(ValueError, match="digits/toy.real.10 has stored rows of another network, SHA-256 another, got"):
        attacks.run(stored, options(), lambda: None)
    attacks.run(stored, options(fresh=True), lambda: None)
    assert stored["networks"]["digits/toy"] is None


def test_without_photographs_the_stored_rows_are_kept(monkeypatch, capsys):
    monkeypatch.delenv("COMPANION_DATA", raising=False)
    monkeypatch.setattr(attacks.data, "cifar10", lambda **_: pytest.fail("a download"))
    assert not [case for case in attacks.cases(options(on="cifar10", fresh=True))]
    assert "stored rows are kept" in capsys.readouterr().out


def test_the_peers_passes_are_what_their_algorithms_take():
    """Starts and checks are paid, counted here by hand. Runs in .venv-bench, where the other libraries are."""
    pytest.importorskip("adv_lib", reason="the other libraries are in .venv-bench")
    from benchmarks import peers

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 10)).eval()
    x = torch.rand(5, 3, 2, 2)
    y = model(x).argmax(1)
    for budget in (30, 300):
        calls = peers.attacks(budget, 10)
        for who, call in calls.items():
            assert measure.outcome(call, model, x, y).backward <= budget, who
        searches, steps = peers.APGD[budget]
        found = measure.outcome(calls["adv-lib", "APGD"], model, x, y)
        # In each bisection a gradient at the random start, one for each step, and a pass to see whether it succeeded.
        assert (found.forward, found.backward) == (searches * (steps + 2), searches * (steps + 1))
        found = measure.outcome(calls["foolbox", "DDN, then BB"], model, x, y)
        # A check of the start, ten bisections towards the clean image, a check of the result.
        assert (found.forward, found.backward) == (budget + 12, budget)
    searches, steps, targets = peers.APGD_TARGETED[300]
    found = measure.outcome(calls["adv-lib", "APGD, targeted"], model, x, y)
    # In each bisection a pass to rank the classes, and one to see whether it succeeded; fooled images stop early.
    assert found.forward == found.backward + 2 * searches
    assert searches * (steps + 1) <= found.backward <= searches * (steps + 1) * targets
    for name, forward in {"TR, adaptive": 3, "TR, step 0.05": 2}.items():
        found = measure.outcome(peers.fixed(10)["adv-lib", name], model, x, y)
        # One forward pass and ten gradients choose the target; the last check stops the image.
        assert found.forward == pytest.approx(2 + forward * (found.backward - 10)) and found.backward > 10


def test_the_stored_results_are_the_page():
    """results.md and results.csv say what results.json holds; every attack of ours succeeded everywhere."""
    stored = json.loads((page.HERE / "results.json").read_text(encoding="utf-8"))
    rows = compare.table(stored)
    assert page.markdown(stored, rows) == (page.HERE / "results.md").read_text(encoding="utf-8")
    lines = (page.HERE / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(rows) + 1 and lines[0] == ",".join(page.FIELDS)
    mine = [row for row in rows if compare.ours(row)]
    assert mine and all(row["success"] == 1 for row in mine)
    # Every budget is kept, and every attack looks at each image at least once.
    assert all(row["backward"] <= int(row["budget"]) for row in rows if row["budget"])
    assert all(row["forward"] >= 1 for row in rows)
    # Each case has ours beside peers, on the same number of images, also on photographs.
    for case in compare.cases(rows):
        here = compare.of(rows, case)
        assert any(map(compare.ours, here)) and any(map(compare.peer, here))
        assert len({row["n"] for row in here if row["whole"]}) == 1
    assert {case[0].split("/")[0] for case in compare.cases(rows)} == {"digits", "cifar10"}
