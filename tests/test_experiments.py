"""The table command, on tiny networks: its numbers checked again; killed and gone on with, it writes the same files."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from scipy.stats import beta, norm
from torch import nn

import companion
from companion import data, models
from companion.attacks.margin import margin_and_gradient
from companion.certificates import certified_lipschitz
from companion.experiments import DECK, TABLES, report, stored, summarise, table
from companion.experiments.stored import RESULTS
from companion.robustness import in_distribution_radius, latent_radius, radii, unconstrained_radius
from companion.smoothness import Lipschitz, jacobian
from companion.training.run import Run, as_shipped, publish
from companion.vulnerability import least_favourable, robustness_quantile

KINDS = list(TABLES["cifar10"])
OPTIONS = dict(samples=30, chunk=4, steps=4, metric_steps=1, device="cpu")


@dataclass(frozen=True)
class Untrained:
    checkpoint_every: int = 1


def write_networks(folder: Path) -> None:
    """A small DCGAN and three LeNets, untrained, their logits centred so that several classes occur."""
    architectures = {
        "generator": {"builder": "dcgan_generator", "latent_dim": 5, "width": 2},
        **{kind: {"builder": "lenet", "width": 1} for kind in KINDS},
    }
    for seed, (kind, architecture) in enumerate(architectures.items()):
        run = Run(folder, f"cifar10-{kind}", seed, Untrained(), False)
        with run.seeded():
            network = models.build(architecture)
            z = torch.randn(500, 5)
        if kind == "generator":
            with torch.no_grad():
                network[-2].weight *= 12
                network(z)
            generator = network.eval()
        else:
            with torch.no_grad():
                network[-1].bias -= network(generator(z)).mean(0)
        results = {"test_accuracy": 0.25 + seed / 100}
        publish(run, f"cifar10/{kind}", as_shipped(network), architecture, results, command="none", data="none")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    write_networks(folder)
    return folder


@pytest.fixture(scope="module")
def whole(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    table("cifar10", folder, weights=weights, **OPTIONS)
    return folder


def raw(folder: Path) -> dict:
    with safe_open(folder / "radii.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def rows_of(folder: Path) -> dict:
    """row name -> {column: number or None}, from the CSV file."""
    lines = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    return {line.pop(""): {key: float(value) if value else None for key, value in line.items()} for line in lines}


def test_the_raw_radii_are_those_of_the_latents(whole, weights):
    stored, generator = raw(whole), models.load("cifar10/generator", folder=weights)
    classifier = models.load("cifar10/vgg", folder=weights)
    draws = torch.Generator().manual_seed(2)  # seed 0, chunk 2
    z = torch.randn(44, 5, generator=draws)[:4]
    options, here = dict(steps=4, return_witness=True), slice(8, 12)
    latent, near = latent_radius(generator, classifier, z, **options)
    inside, at = in_distribution_radius(generator, classifier, z, metric_steps=1, start=near, **options)
    free = unconstrained_radius(classifier, generator(z), start=generator(at), **options)[0]
    for key, expected in (("latent", latent), ("in_distribution", inside), ("unconstrained", free)):
        torch.testing.assert_close(stored[f"vgg/{key}"][here], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stored["latent_norm"][here], z.norm(dim=1))
    torch.testing.assert_close(stored["image_norm"][here], generator(z).flatten(1).norm(dim=1))
    assert torch.equal(stored["vgg/label"][here], classifier(generator(z)).argmax(1))
    for kind in KINDS:
        assert stored[f"{kind}/counts"].sum() == 30 * (1 + report.COUNTED)
        assert (stored[f"{kind}/unconstrained"] <= stored[f"{kind}/in_distribution"]).all()
        assert (stored[f"{kind}/in_distribution"] <= stored[f"{kind}/image_distance_at_latent_witness"]).all()


def test_the_table_is_what_the_radii_say(whole, weights):
    stored, rows, title = raw(whole), rows_of(whole), TABLES["cifar10"]["vgg"]
    ordered = sorted((stored["vgg/latent"].double() / stored["latent_norm"].double().mean()).tolist())
    assert rows["Z-space"][title] == pytest.approx(ordered[7])  # 8 of 30 are at least a quarter, 7 are not
    assert rows["error rate"][title] == pytest.approx(0.74)
    assert rows["largest class probability"][title] == pytest.approx((stored["vgg/counts"].sum(0) / 330).max().item())
    # (4) for ten equal classes, by SciPy: 0.157979905 is where it is a quarter.
    a, t = norm.isf(0.1), rows["Z-space"]["bound"] * stored["latent_norm"].double().mean().item()
    assert 10 * (norm.cdf(a + t) - norm.cdf(a)) == pytest.approx(0.25)
    assert t == pytest.approx(0.157979905)
    p = least_favourable(stored["vgg/counts"].sum(0), confidence=0.95)
    expected = robustness_quantile(0.25, p, Lipschitz(1.0)) / stored["latent_norm"].double().mean()
    assert rows["Z-space: bound for the classifier's own class probabilities"][title] == pytest.approx(expected.item())


def columns(n: int = 1000) -> dict:
    """A linear world: r_Z = |z_1|, images twice as far apart, every local modulus exactly 2 t."""
    z = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = {
        "latent": z[:, 0].abs(),
        "in_distribution": 2 * z[:, 0].abs(),
        "unconstrained": z[:, 0].abs(),
        "image_distance_at_latent_witness": 2 * z[:, 0].abs(),
        "in_distribution_witness_norm": z.norm(dim=1),
        "counts": torch.tensor([[n // 2, n // 2]]),
    }
    shared = {"latent_norm": z.norm(dim=1), "image_norm": torch.full((n,), 4.0)}
    shared["local_moduli"] = 2 * torch.tensor(report.REACHES, dtype=torch.float64).expand(n, -1)
    return shared | {f"f/{key}": value for key, value in own.items()}


def test_bounds_in_a_world_where_all_is_known():
    """Two half-spaces and a linear generator attain the bound: r_Z has 25 % quantile Φ⁻¹(0.625) = 0.3186."""
    rows = {row["row"]: row for row in summarise(columns(), ["f"], {"f": 0.5}, Lipschitz(3.0))}
    mean = columns()["latent_norm"].mean().item()
    assert rows["Z-space"]["bound"] == pytest.approx(norm.ppf(0.625) / mean)
    assert rows["Z-space"]["f"] == pytest.approx(norm.ppf(0.625) / mean, rel=0.15)
    certified = rows["in-distribution: the same bound from a certified Lipschitz constant"]
    assert certified["bound"] == pytest.approx(3 * norm.ppf(0.625) / 4)
    # Counted on a thousand latents, the classes may be a little less even.
    limit = beta.ppf(0.975, 501, 500)
    t = certified["f"] * 4 / 3
    assert norm.cdf(norm.isf(limit) + t) - norm.cdf(norm.isf(limit) - t) == pytest.approx(0.25)
    # The measured modulus is 2 t; of the radii in REACHES, 0.36 is the first beyond 0.3186.
    assert rows["in-distribution"]["bound"] == pytest.approx(2 * 0.36 / 4)
    assert rows["error rate"] == {"row": "error rate", "bound": None, "f": 0.5}
    assert rows["smallest class probability"]["f"] == 0.5


def test_one_class_alone_is_bounded_by_nothing():
    world = columns(40) | {"f/counts": torch.tensor([[40, 0]]), "f/latent": torch.full((40,), math.inf)}
    rows = {row["row"]: row for row in summarise(world, ["f"], {"f": 0.5}, Lipschitz(3.0))}
    assert rows["Z-space"]["f"] == rows["Z-space: bound for the classifier's own class probabilities"]["f"] == math.inf
    assert rows["images with a witness, latent"]["f"] == 0


@pytest.mark.parametrize("level, expected", [(0.25, 1.0), (0.26, 2.0), (0.5, 2.0), (0.75, 3.0), (1.0, math.inf)])
def test_quantiles_are_values_that_occur(level, expected):
    assert report.quantile(torch.tensor([3.0, math.inf, 1.0, 2.0]), level) == expected


def test_provenance_is_with_the_radii(whole, weights):
    stated = json.loads((whole / "provenance.json").read_text())
    with safe_open(whole / "radii.safetensors", "pt") as file:
        inside = json.loads(file.metadata()["provenance"])
    assert inside.items() <= stated.items()
    names = models.names(folder=weights)
    assert stated["weights"] == {name: models.card(name, folder=weights)["sha256"] for name in names}
    assert stated["torch"] == torch.__version__ and stated["version"] == companion.__version__ and stated["seed"] == 0
    if (Path(companion.__file__).parents[1] / ".git").exists():
        assert len(stated["commit"].split("+")[0]) == 40
    assert all(seconds > 0 for seconds in stated["seconds_per_1000_images"].values())
    text = (whole / "table.md").read_text()
    assert all(name in text for name in [*TABLES["cifar10"].values(), stated["commit"], "30 generated images"])


def start(weights: Path, out: Path, workers: int) -> subprocess.Popen:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = [sys.executable, "-m", "companion", "table", "cifar10", f"--weights={weights}", f"--out={out}", *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([*command, f"--workers={workers}"], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while len(chunks(out)) < 2:
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.01)
    return process


def chunks(out: Path) -> dict[str, int]:
    """The chunks in a folder, and when each was written."""
    return {str(path): path.stat().st_mtime_ns for path in out.glob("chunks/*/*.safetensors")}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_resumes_to_the_same_table(workers, weights, whole, tmp_path):
    process = start(weights, tmp_path, workers)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= workers - 1
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not psutil.wait_procs(children, timeout=30)[1], "workers were left behind"
    done = chunks(tmp_path)
    assert len(done) < 8 and not (tmp_path / "table.md").exists()
    table("cifar10", tmp_path, weights=weights, **OPTIONS)
    threads = {rows["threads"] for rows in (origin_of(path) for path in tmp_path.glob("chunks/*/*.safetensors"))}
    if len(threads) == 1:  # else they round otherwise
        for name in ("table.md", "table.csv", "radii.safetensors"):
            assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert done.items() <= chunks(tmp_path).items()


def origin_of(path: Path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["origin"])


def test_more_images_go_on_where_fewer_ended(weights, whole, tmp_path):
    table("cifar10", tmp_path, weights=weights, **OPTIONS | dict(samples=10))  # chunks of 4, 4 and 2
    before = chunks(tmp_path)
    table("cifar10", tmp_path, weights=weights, **OPTIONS)
    assert (tmp_path / "radii.safetensors").read_bytes() == (whole / "radii.safetensors").read_bytes()
    after = chunks(tmp_path)
    assert len(after) == 9 and before.items() <= after.items()


def test_chunks_of_another_plan_are_left_alone(weights, tmp_path):
    few = OPTIONS | dict(samples=4)
    table("cifar10", tmp_path, weights=weights, **few)
    before = chunks(tmp_path)
    for change in (dict(seed=1), dict(steps=5), dict(metric_steps=2), dict(chunk=5)):
        table("cifar10", tmp_path, weights=weights, **few | change)
    assert len(chunks(tmp_path)) == 5 and before.items() <= chunks(tmp_path).items()


def test_another_seed_gives_other_radii(whole, weights, tmp_path):
    table("cifar10", tmp_path, weights=weights, **OPTIONS | dict(seed=1, samples=3))
    assert not torch.equal(raw(tmp_path)["latent_norm"], raw(whole)["latent_norm"][:3])


def test_error_rates_are_measured_again_where_there_is_data(weights, tmp_path, monkeypatch):
    classifier = models.load("cifar10/vgg", folder=weights)
    pictures = torch.randint(256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    right = classifier(pictures / 255).argmax(1)
    labels = torch.where(torch.arange(20) < 5, (right + 1) % 10, right)  # five of twenty are wrong
    monkeypatch.setattr(data, "cifar10", lambda *, root: data.Images(None, None, pictures, labels, {"root": root}))
    table("cifar10", tmp_path, weights=weights, **OPTIONS | dict(samples=2), root="here")
    assert rows_of(tmp_path)["error rate"]["VGG"] == pytest.approx(0.25)
    assert json.loads((tmp_path / "provenance.json").read_text())["error_rates_measured_on"] == {"root": "here"}


def test_a_table_is_read_as_it_was_written(whole):
    found = stored("cifar10", folder=whole)
    assert list(found.rows["error rate"]) == ["bound", *KINDS] and found.rows["error rate"]["bound"] is None
    assert found.rows["Z-space"]["vgg"] == rows_of(whole)["Z-space"]["VGG"]
    assert all(torch.equal(found.radii[key], column) for key, column in raw(whole).items())
    assert found.provenance["samples"] == 30 and found.provenance["seconds_per_1000_images"]


def test_there_is_no_table_of_svhn(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table of svhn in .*table.csv.* python -m companion train svhn"):
        stored("svhn")
    with pytest.raises(FileNotFoundError, match="radii.safetensors"):
        stored("cifar10", folder=tmp_path)
    with pytest.raises(ValueError, match="data must be one of cifar10, svhn, got 'digits'"):
        stored("digits")


@pytest.mark.parametrize("data", DECK)
def test_the_decks_numbers_are_in_the_order_of_the_theory(data):
    rows = DECK[data]
    assert all(list(row) == ["bound", *TABLES[data]] for row in rows.values())
    for kind in TABLES[data]:
        assert rows["in-distribution"]["bound"] >= rows["in-distribution"][kind] >= rows["unconstrained"][kind]
        assert rows["Z-space"]["bound"] >= rows["Z-space"][kind]
    equal = torch.full((10,), 0.1, dtype=torch.float64)
    bound = robustness_quantile(0.25, equal, Lipschitz(1.0)).item() / 10
    assert rows["Z-space"]["bound"] == pytest.approx(bound, abs=5e-4)


@pytest.fixture(scope="module")
def shipped():
    return stored("cifar10")


def test_the_shipped_table_is_of_the_shipped_networks(shipped):
    names = [f"cifar10/{kind}" for kind in ("generator", *KINDS)]
    assert shipped.provenance["weights"] == {name: models.card(name)["sha256"] for name in names}
    assert shipped.provenance["samples"] == len(shipped.radii["latent_norm"])
    assert "changes" not in shipped.provenance["commit"]


def test_the_shipped_table_is_of_two_thousand_images(shipped):
    assert shipped.provenance["samples"] >= 2_000


def test_the_shipped_table_follows_from_its_radii(shipped):
    generator = models.load("cifar10/generator")
    errors = {kind: 1 - models.card(f"cifar10/{kind}")["results"]["test_accuracy"] for kind in KINDS}
    certified = certified_lipschitz(generator, (generator.latent_dim,))
    for row in summarise(shipped.radii, KINDS, errors, certified):
        stated = shipped.rows[row.pop("row")]
        assert stated == {column: value if value is None else pytest.approx(value) for column, value in row.items()}


def test_the_shipped_table_obeys_the_theory(shipped):
    rows = shipped.rows
    for kind in KINDS:
        r_in, r_unc = (shipped.radii[f"{kind}/{key}"] for key in ("in_distribution", "unconstrained"))
        assert (r_unc <= r_in).all()
        bound = rows["in-distribution: bound for its own class probabilities"][kind]
        assert min(bound, rows["in-distribution"]["bound"]) >= rows["in-distribution"][kind]
        assert rows["Z-space"][kind] < 0.016
        assert rows["Z-space"][kind] < rows["Z-space: bound for the classifier's own class probabilities"][kind]
        assert rows["images with a witness, unconstrained"][kind] == 1


def test_a_search_twice_as_long_finds_hardly_more(shipped):
    longer = stored("cifar10", folder=RESULTS / "cifar10-doubled")
    for option in ("steps", "metric_steps"):
        assert longer.provenance[option] == 2 * shipped.provenance[option]
    for fixed in ("weights", "seed", "chunk"):
        assert longer.provenance[fixed] == shipped.provenance[fixed]
    pairs = {
        f"{kind}/{key}": [table.radii[f"{kind}/{key}"][: longer.provenance["samples"]] for table in (longer, shipped)]
        for kind in KINDS
        for key in ("latent", "in_distribution", "unconstrained")
    }
    changes = {name: (twice.median() / once.median() - 1).item() for name, (twice, once) in pairs.items()}
    # One of the nine, of the adversarially trained network, moves by 4 %.
    assert sum(abs(change) > 0.02 for change in changes.values()) <= 1 and min(changes.values()) > -0.05, changes
    assert all((twice / once).log().mean() > -0.02 for twice, once in pairs.values())


def moved(shipped, key: str) -> float:
    """The median radius of the adversarially trained network over that of the plain one."""
    trained, plain = (shipped.radii[f"{kind}/{key}"] for kind in ("wide-resnet-adversarial", "wide-resnet"))
    return (trained.median() / plain.median()).item()


def test_adversarial_training_moves_the_unconstrained_radius_most(shipped):
    assert moved(shipped, "unconstrained") >= 3
    assert moved(shipped, "unconstrained") > moved(shipped, "in_distribution") > moved(shipped, "latent")
    # As the chapter says: where the latent search ends, the two networks seem to differ less.
    assert moved(shipped, "in_distribution") > moved(shipped, "image_distance_at_latent_witness")
    # The paper's table has 1.4 (25 % quantiles); ours, with a search that looks for the nearest, more than twice that.
    assert moved(shipped, "in_distribution") > 3


def first_latents(shipped, n: int) -> torch.Tensor:
    plan = shipped.provenance
    draws = torch.Generator().manual_seed(plan["seed"] << 20)
    return torch.randn((1 + report.COUNTED) * plan["chunk"], 100, generator=draws)[:n]


@pytest.mark.parametrize("kind", KINDS)
def test_the_in_distribution_radius_is_what_tangents_predict(shipped, kind):
    """Where generator and boundary are flat, r_in = r_unc / ‖Πn‖, n the margin's direction, Π onto the tangents."""
    generator, classifier = models.load("cifar10/generator"), models.load(f"cifar10/{kind}")
    z = first_latents(shipped, 12)
    x, tangent = generator(z), torch.linalg.qr(jacobian(generator, z)).Q
    normal = margin_and_gradient(classifier, x, classifier(x).argmax(1))[2].flatten(1)
    share = (tangent.mT @ normal[..., None]).flatten(1).norm(dim=1) / normal.norm(dim=1)
    r_in, r_unc = (shipped.radii[f"{kind}/{key}"][:12] for key in ("in_distribution", "unconstrained"))
    quotient = r_in * share / r_unc
    assert 0.97 < quotient.median() < 1.06
    # Not everywhere is it flat: one of these images has 1.4 for the plain Wide ResNet, after longer searches, too.
    assert ((0.8 < quotient) & (quotient < 1.5)).all() and ((0.9 < quotient) & (quotient < 1.15)).double().mean() > 0.6


def test_the_first_images_of_the_shipped_table_measured_again(shipped):
    generator, kind = models.load("cifar10/generator"), "vgg"
    plan, z = shipped.provenance, first_latents(shipped, 4)
    options = dict(steps=plan["steps"], metric_steps=plan["metric_steps"])
    again = radii(generator, models.load(f"cifar10/{kind}"), z, **options)
    for key in ("latent", "in_distribution", "unconstrained"):
        # The table was measured with the search before this one, which shall not be worse; single rows may be.
        ratio = getattr(again, key) / shipped.radii[f"{kind}/{key}"][:4]
        assert 0.7 < ratio.log().mean().exp() < 1.05


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(data="cifar100"), "data must be one of cifar10, svhn, got 'cifar100'"),
        (dict(samples=0), "samples must be an integer of at least 1, got 0"),
        (dict(chunk=0), "chunk must be an integer of at least 1, got 0"),
        (dict(seed=4096), "seed must be less than 4096, got 4096"),
        (dict(metric_steps=-1), "metric_steps must be an integer of at least 0"),
        (dict(data="svhn"), "weights must be a folder with svhn/generator, svhn/lenet, .* companion train svhn"),
        (dict(weights=Path("nowhere")), "weights must be a folder with cifar10/generator, .* got 'nowhere'; make them"),
    ],
)
def test_bad_options_are_named(change, message, weights, tmp_path):
    options = dict(data="cifar10", weights=weights) | OPTIONS | change
    with pytest.raises(ValueError, match=message):
        table(options.pop("data"), tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_networks_in_the_table_are_those_that_are_trained():
    from companion.training import PRESETS

    assert all([*TABLES[name], "generator"] == [*PRESETS[name][preset]] for name in TABLES for preset in PRESETS[name])
    assert isinstance(models.build({"builder": "lenet", "width": 1}), nn.Sequential)
