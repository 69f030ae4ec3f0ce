"""What the eight papers of the deck's tables say, each as a measurement on real handwritten digits."""

from __future__ import annotations

import json
import math

import pytest
import torch

from companion import _files, arms_race, models
from companion.__main__ import main
from companion.arms_race import Attack, Victim, all_attacks, matrix, shipped_victims
from companion.attacks import fgsm, jsma, lbfgs, logit_ensemble, mi_fgsm, minimal_l2
from companion.attacks.sign import loss_gradient
from companion.data import digits
from companion.defences import RandomActivations, bpda, diagnose, eot, quantise

EPS, BOX = 0.2, (0.0, 1.0)
SIGN = dict(eps=EPS, bounds=BOX, keep_failed=True)


@pytest.fixture(scope="module")
def scans():
    data = digits()
    return data.held_out_images, data.held_out_labels


@pytest.fixture(scope="module")
def net():
    kinds = ("cnn", "mlp", "linear", "surrogate", "distilled", "fgsm-trained", "ensemble-trained")
    return {kind: models.load(f"digits/{kind}") for kind in kinds}


@pytest.fixture(scope="module")
def stored():
    return arms_race.load("digits")


def fooled(classifier, images, scans) -> float:
    """Share of the scans that are classified rightly, of which `images` are not."""
    x, y = scans
    with torch.no_grad():
        right = classifier(x).argmax(1) == y
        return (classifier(images).argmax(1) != y)[right].double().mean().item()


# The four attacks


@pytest.fixture(scope="module")
def four(net, scans):
    x, y = scans
    f = net["cnn"]
    found = {
        "lbfgs": lbfgs(f, x, y, bounds=BOX),
        "fgsm": fgsm(f, x, y, eps=0.3, bounds=BOX),
        "mi_fgsm": mi_fgsm(f, x, y, eps=0.3, bounds=BOX),
        "jsma": jsma(f, x, y, bounds=BOX, max_fraction=0.5),
    }
    wins = {name: (f(image).argmax(1) != y) & (image != x).flatten(1).any(1) for name, image in found.items()}
    everywhere = torch.stack(list(wins.values())).all(0)
    return wins, {name: (image - x)[everywhere].flatten(1) for name, image in found.items()}


def test_every_attack_fools_nearly_everything(four):
    wins, change = four
    assert wins["lbfgs"].double().mean() >= 0.99
    assert all(win.double().mean() > 0.9 for win in wins.values()) and len(change["fgsm"]) > 400


def test_szegedy_lbfgs_is_the_shortest(four):
    change = four[1]
    length = {name: part.norm(dim=1) for name, part in change.items()}
    for name in ("fgsm", "mi_fgsm", "jsma"):
        assert (length["lbfgs"] < length[name]).double().mean() > 0.99
        assert length["lbfgs"].median() < 0.5 * length[name].median()


def test_papernot_jsma_changes_the_fewest_pixels(four):
    change = four[1]
    pixels = {name: (part != 0).sum(1) for name, part in change.items()}
    for name in ("lbfgs", "fgsm", "mi_fgsm"):
        assert (pixels["jsma"] < pixels[name]).all()
        assert pixels["jsma"].median() < 0.25 * pixels[name].median()


def test_goodfellow_one_gradient_is_enough(net, scans):
    x, y = scans
    calls = []

    def counted(image):
        calls.append(image.requires_grad)
        return net["cnn"](image)

    assert fooled(net["cnn"], fgsm(counted, x, y, **SIGN), scans) > 0.7
    assert sum(calls) == 1


def transferred(source, victim, scans, eps=EPS) -> dict[str, float]:
    options = dict(eps=eps, bounds=BOX, keep_failed=True)
    x, y = scans
    images = {
        "fgsm": fgsm(source, x, y, **options),
        "iterated": fgsm(source, x, y, steps=10, **options),
        "mi_fgsm": mi_fgsm(source, x, y, **options),
    }
    return {name: fooled(victim, image, scans) for name, image in images.items()}


def test_dong_momentum_transfers_best_where_iteration_overfits(net, scans):
    """From one adversarially trained network to the other, both ways, at the size they were trained on."""
    for source, victim in (("ensemble-trained", "fgsm-trained"), ("fgsm-trained", "ensemble-trained")):
        rate = transferred(net[source], net[victim], scans, eps=0.3)
        assert rate["mi_fgsm"] > max(rate["fgsm"], rate["iterated"]) + 0.02, rate
    # To an undefended network, iteration overfits as well; momentum makes up for a part of it only.
    rate = transferred(net["fgsm-trained"], net["cnn"], scans, eps=0.3)
    assert rate["iterated"] + 0.05 < rate["mi_fgsm"] < rate["fgsm"] - 0.05, rate


def test_dong_between_plain_digits_networks_there_is_nothing_to_cure(net, scans):
    """Iteration transfers better than one step there; momentum does too, but no better than iteration."""
    rate = transferred(net["surrogate"], net["cnn"], scans)
    assert rate["iterated"] > rate["fgsm"] + 0.03 and rate["mi_fgsm"] > rate["fgsm"] + 0.03
    assert abs(rate["mi_fgsm"] - rate["iterated"]) < 0.04


def test_dong_an_ensemble_transfers_better_than_its_members_on_average(net, scans):
    x, y = scans
    members = [net[name] for name in ("surrogate", "mlp", "linear")]
    rates = [fooled(net["cnn"], mi_fgsm(member, x, y, **SIGN), scans) for member in members]
    together = fooled(net["cnn"], mi_fgsm(logit_ensemble(members), x, y, **SIGN), scans)
    assert together > sum(rates) / 3 + 0.05 and together >= max(rates)


# The four defences


def test_papernot_distillation_stops_fgsm_and_not_minimal_attacks(net, scans):
    x, y = scans
    plain, student = net["cnn"], net["distilled"]
    rate = [fooled(f, fgsm(f, x, y, **SIGN), scans) for f in (plain, student)]
    assert rate[0] > 3 * rate[1], rate
    for attack in (lbfgs, minimal_l2):
        assert fooled(student, attack(student, x, y, bounds=BOX), scans) >= 0.99


def test_papernot_distillation_only_hides_the_gradient(net, scans):
    x, y = scans
    student = net["distilled"]
    softened = lambda image: student(image) / 20  # noqa: E731
    zero = [(loss_gradient(f, x, y)[1] == 0).flatten(1).all(1).double().mean() for f in (student, softened)]
    assert zero[0] > 0.7 and zero[1] == 0
    assert fooled(student, fgsm(softened, x, y, **SIGN), scans) > 0.95
    # On logits the saliency map never noticed; on saturated probabilities it is blind.
    seen = jsma(student, x, y, bounds=BOX, max_fraction=0.5)
    blind = jsma(lambda image: student(image).softmax(1), x, y, bounds=BOX, max_fraction=0.5)
    assert fooled(student, seen, scans) > 3 * fooled(student, blind, scans)
    # The borders are no farther away than before.
    length = [(minimal_l2(f, x, y, bounds=BOX) - x).flatten(1).norm(dim=1).median() for f in (net["cnn"], student)]
    assert length[1] < 1.1 * length[0]


def test_tramer_plain_fgsm_training_masks_its_gradient(net, scans):
    x, y = scans
    masked = net["fgsm-trained"]
    # Label leaking: a perturbation of the size it was trained on hurts less than one of a third.
    small, large = (fooled(masked, fgsm(masked, x, y, eps=e, bounds=BOX, keep_failed=True), scans) for e in (0.1, 0.3))
    assert large < small
    # Small steps undo it, and a network without defence makes better perturbations than itself.
    own = fooled(masked, fgsm(masked, x, y, **SIGN), scans)
    assert fooled(masked, fgsm(masked, x, y, steps=20, **SIGN), scans) > 0.95
    assert fooled(masked, fgsm(net["surrogate"], x, y, **SIGN), scans) > own + 0.05
    seen = diagnose(masked, x, y, eps=EPS, bounds=BOX, samples=1, black_box={"s": fgsm(net["surrogate"], x, y, **SIGN)})
    assert not seen.symptoms["loss flat"]


def test_tramer_the_ensemble_repairs_transfer(net, scans):
    x, y = scans
    for attack in (fgsm, mi_fgsm):
        image = attack(net["surrogate"], x, y, **SIGN)
        plain, repaired = (fooled(net[kind], image, scans) for kind in ("fgsm-trained", "ensemble-trained"))
        assert repaired < 0.15 < 0.4 < plain
    # In the white box neither holds.
    assert fooled(net["ensemble-trained"], fgsm(net["ensemble-trained"], x, y, steps=20, **SIGN), scans) > 0.95


def test_athalye_bpda_breaks_quantisation(net, scans):
    x, y = scans
    f = net["cnn"]
    hidden, through = (lambda image: f(quantise(image))), (lambda image: f(bpda(quantise)(image)))
    options = dict(steps=20, step_size=EPS / 4, **SIGN)
    assert 1 - fooled(hidden, fgsm(hidden, x, y, **options), scans) >= 0.5
    assert 1 - fooled(hidden, fgsm(through, x, y, **options), scans) <= 0.02
    seen = diagnose(hidden, x, y, eps=EPS, bounds=BOX, samples=20, black_box={"f": fgsm(f, x, y, **SIGN)})
    assert seen.symptoms["loss flat"] and seen.symptoms["black box beats white box"]
    assert seen.symptoms["unbounded attack short of 100 %"]


def test_athalye_eot_breaks_random_activations(net, scans):
    x, y = (part[:150] for part in scans)
    f = net["cnn"]
    deployed, once = eot(RandomActivations(f, seed=1)), RandomActivations(f, seed=2)
    answers = deployed(x).argmax(1) == y
    assert answers.double().mean() > 0.95

    def left(image) -> float:
        return (deployed(image).argmax(1) == y)[answers].double().mean().item()

    assert left(fgsm(once, x, y, steps=20, **SIGN)) >= 0.5
    mean = eot(RandomActivations(f, seed=2), draws=16)
    assert left(fgsm(mean, x, y, steps=20, step_size=EPS / 5, **SIGN)) <= 0.02
    # Momentum and large steps average as well, only less well.
    assert left(mi_fgsm(once, x, y, steps=20, **SIGN)) < 0.35


def test_papernot_substitutes_imitate_and_transfer(scans):
    x, y = scans
    victims, _ = shipped_victims()
    for name, victim in victims.items():
        card = models.card(f"digits/substitute-{name.lower()}")
        assert card["results"]["agreement"] > 0.8 and card["results"]["queries"] == 4800
        image = fgsm(victim.substitute, x[:100], y[:100], **SIGN)
        assert fooled(victim.answer, image, (x[:100], y[:100])) > 0.3


def test_an_honest_network_passes_the_checklist(net, scans):
    x, y = scans
    image = fgsm(net["surrogate"], x, y, **SIGN)
    seen = diagnose(net["cnn"], x, y, eps=EPS, bounds=BOX, samples=20, black_box={"surrogate": image})
    assert not any(seen.symptoms[s] for s in seen.symptoms if s != "black box beats white box"), seen


# The matrix


def test_stored_matrix_is_what_the_papers_say(stored):
    white, adaptive, transfer, _ = stored.threats
    accuracy = lambda *entry: stored.at(*entry)[0]  # noqa: E731
    assert 1 - accuracy("undefended", white, "FGSM") > 3 * (stored.clean[1] - accuracy("distilled", white, "FGSM"))
    for attack in ("L-BFGS", "minimal L2"):
        assert accuracy("distilled", white, attack) <= 0.01
    assert accuracy("distilled", white, "JSMA, prob.") > 0.5 > accuracy("distilled", white, "JSMA")
    assert accuracy("quantised", white, "iterated") >= 0.5 and accuracy("quantised", adaptive, "iterated") <= 0.02
    assert accuracy("ensemble-trained", transfer, "MI-FGSM") > accuracy("FGSM-trained", transfer, "MI-FGSM") + 0.3
    for attack in ("FGSM", "iterated", "MI-FGSM", "JSMA"):
        assert stored.at("undefended", white, "L-BFGS")[1] < stored.at("undefended", white, attack)[1]
    assert set(stored.provenance) >= {"command", "commit", "device", "seed", "versions", "data"}
    assert "dirty" not in stored.provenance["commit"]


def test_stored_matrix_is_measured_again(stored, scans):
    count = int(stored.provenance["data"].split()[0])
    victims, surrogate = shipped_victims()
    victims = {name: victims[name] for name in ("undefended", "FGSM-trained", "quantised")}
    some = {name: all_attacks()[name] for name in ("FGSM", "JSMA")}
    found = matrix(victims, surrogate, *(part[:count] for part in scans), attacks=some)
    for victim in victims:
        for threat in found.threats:
            for attack in some:
                again, before = found.at(victim, threat, attack), stored.at(victim, threat, attack)
                assert again[0] == pytest.approx(before[0], abs=1.5 / count)
                assert again[1] == pytest.approx(before[1], rel=0.02)


def test_the_race_on_photographs():
    found = arms_race.load("cifar10")
    white, adaptive, transfer, _ = found.threats
    accuracy, distance = (lambda *entry, which=which: found.at(*entry)[which] for which in (0, 1))
    assert found.provenance["weights"] == {name: models.card(name)["sha256"] for name in found.provenance["weights"]}
    assert "changes" not in found.provenance["commit"]
    # Hidden gradients, as with digits.
    assert accuracy("quantised", white, "iterated") > accuracy("quantised", adaptive, "iterated") + 0.5
    assert accuracy("distilled", white, "iterated") > 0.1 > 0.02 > accuracy("distilled", adaptive, "iterated")
    for name in ("undefended", "distilled", "FGSM-trained", "ensemble-trained", "quantised"):
        assert accuracy(name, adaptive, "minimal L2") == 0
    # Iteration overfits and momentum repairs it: Dong et al. (2018), section 3, which digits do not show.
    for name in ("undefended", "distilled", "quantised", "random"):
        one, iterated, momentum = (accuracy(name, transfer, attack) for attack in ("FGSM", "iterated", "MI-FGSM"))
        assert momentum + 0.03 < one < iterated
    assert accuracy("undefended", white, "iterated") < accuracy("undefended", white, "FGSM") - 0.15
    # Training on single steps does more than to deceive them.
    assert accuracy("FGSM-trained", white, "iterated") > accuracy("FGSM-trained", white, "FGSM") - 0.1
    assert distance("FGSM-trained", adaptive, "minimal L2") > 3 * distance("undefended", adaptive, "minimal L2")


def half(x):
    """Class 1 where the first pixel exceeds one half."""
    return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], 1)


def nudge(size_is_given):
    def run(classifier, x, y, bounds, eps=0.3):
        return (x + eps * torch.tensor([1.0, 0.0])).clamp(*bounds)

    return Attack(run, size_is_given)


def test_matrix_counts_and_measures():
    x = torch.tensor([[0.45, 0.0], [0.35, 0.0], [0.1, 0.0], [0.9, 0.0]])
    y = torch.tensor([0, 0, 0, 0])  # the last one is misclassified to begin with
    victims = {"a": Victim(half, half, half), "b": Victim(lambda z: -half(z), half, half, half)}
    options = dict(attacks={"sized": nudge(True), "one": nudge(False)}, eps=0.1, eps_l2=0.25, sizes=(0.1, 0.2, 1.0))
    found = matrix(victims, half, x, y, **options)
    assert found.accuracy.shape == (2, 4, 2) and found.victims == ("a", "b")
    assert found.clean.tolist() == [0.75, 0.25]
    assert found.at("a", "transfer", "sized") == (0.5, pytest.approx(0.2))
    assert found.at("a", "transfer", "one") == (0.25, pytest.approx(0.3))
    assert found.accuracy_l2[0, 2].tolist() == [0.25, 0.75]  # a, transfer: one image is beyond 0.25, and three are
    assert found.accuracy_l2[1, 2].tolist() == [0.25, 0.25]  # b is wrong about all but the last
    assert all(math.isnan(value) for value in found.at("a", "substitute", "one"))
    assert (found.accuracy_l2.isnan() == found.accuracy.isnan()).all()
    assert found.at("b", "substitute", "one") == (0.25, math.inf)


def test_a_matrix_survives_the_disk(tmp_path):
    x, y = torch.tensor([[0.45, 0.0]]), torch.tensor([0])
    found = matrix({"a": Victim(half, half, half)}, half, x, y, attacks={"one": nudge(False)})
    arms_race.save(found, tmp_path / "a.json")
    again = arms_race.load(tmp_path / "a.json")
    assert again.victims == found.victims and again.threats == found.threats
    for name in ("accuracy", "accuracy_l2"):
        torch.testing.assert_close(getattr(again, name), getattr(found, name), equal_nan=True)
    torch.testing.assert_close(again.distance, found.distance, rtol=1e-3, atol=0, equal_nan=True)


def test_a_result_of_another_version_is_refused(tmp_path):
    fields = json.loads((arms_race.RESULTS / "arms_race-digits.json").read_text())
    del fields["accuracy_l2"], fields["digest"]
    (tmp_path / "old.json").write_text(json.dumps(_files.seal(fields)))
    with pytest.raises(RuntimeError, match="of another version of the package; make it again"):
        arms_race.load(tmp_path / "old.json")


def test_the_command_writes_where_it_was_told(tmp_path, monkeypatch):
    monkeypatch.setattr(arms_race, "all_attacks", lambda **_: {"one": Attack(lambda f, x, y, bounds: x, False)})
    main(["arms-race", "digits", "--images", "5", "--out", str(tmp_path / "r.json")])
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["provenance"]["data"] == "5 held-out images of digits"
    assert written["attacks"] == ["one"] and len(written["accuracy"]) == 6


POINT, LABEL = torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)
ONE = {"a": Victim(half, half, half)}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: arms_race.run("svhn"), "data must be one of digits, cifar10, got 'svhn'"),
        (lambda: arms_race.run("digits", images=0), "images must be an integer of at least 1"),
        (lambda: matrix({}, half, POINT, LABEL), "victims not empty"),
        (lambda: matrix(ONE, half, POINT, LABEL, threats=["guessing"]), "threats must be among"),
        (lambda: matrix(ONE, half, POINT[:0], LABEL[:0]), "x must hold at least one image"),
        (lambda: matrix(ONE, half, POINT, LABEL, eps=0), "eps must be one positive"),
        (lambda: matrix(ONE, half, POINT, LABEL, eps_l2=0), "eps_l2 must be one positive"),
        (lambda: matrix(ONE, half, POINT + 2, LABEL), "bounds = .* must hold x"),
        (lambda: matrix({"a": Victim(lambda x: x[:, :1], half, half)}, half, POINT, LABEL), "must return logits"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_networks_are_named(tmp_path):
    shipped = json.loads((models.WEIGHTS / "registry.json").read_text())
    kept = {name: entry for name, entry in shipped.items() if name in ("cifar10/vgg", "cifar10/surrogate")}
    (tmp_path / "registry.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="on cifar10, got '.*' without distilled, .*train cifar10 --out DIR"):
        arms_race.run("cifar10", weights=tmp_path)


def test_a_missing_result_says_how_to_make_it():
    with pytest.raises(FileNotFoundError, match="arms_race-svhn.json; it is made by: python -m companion arms-race"):
        arms_race.load("svhn")
