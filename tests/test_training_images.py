"""The recipes for colour images, on pictures made up here: seeded, killed and gone on with, published as measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.io import savemat
from scipy.stats import kstest
from torch import nn
from torch.nn import functional as F

from companion import arms_race, data, models
from companion.__main__ import main
from companion.training import PRESETS, images, race, train_images

RECORDS = 80
SMOKE = PRESETS["cifar10"]["smoke"]
KINDS = [*SMOKE, *race.NETWORKS]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """CIFAR-10's files with 80 records each: every class its own colour, noise on top."""
    folder = tmp_path_factory.mktemp("cifar10")
    random = torch.Generator().manual_seed(0)
    colours = torch.randint(256, (10, 3, 1, 1), generator=random)
    for name in data.CIFAR10_FILES:
        labels = torch.arange(RECORDS) % 10
        pixels = (colours[labels] + torch.randint(-40, 40, (RECORDS, 3, 32, 32), generator=random)).clamp(0, 255)
        rows = torch.cat([labels[:, None], pixels.flatten(1)], 1).to(torch.uint8)
        (folder / name).write_bytes(rows.numpy().tobytes())
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_records():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "CIFAR10_RECORDS", RECORDS)
        yield


@pytest.fixture(scope="module")
def smoke(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    train_images("cifar10", folder, preset="smoke", root=root, device="cpu")
    return folder


def weights(folder: Path) -> dict:
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_equal(first: dict, second: dict) -> None:
    assert first.keys() == second.keys() and first
    for name, tensors in first.items():
        assert all(torch.equal(tensors[key], second[name][key]) for key in tensors)


def test_what_is_written_loads_and_is_as_stated(smoke, root):
    assert models.names(folder=smoke) == tuple(sorted(f"cifar10/{kind}" for kind in KINDS))
    found = data.cifar10(root=root)
    for kind in set(KINDS) - {"generator"}:
        card, network = models.card(f"cifar10/{kind}", folder=smoke), models.load(f"cifar10/{kind}", folder=smoke)
        right = network(found.test_images[:64] / 255).argmax(1) == found.test_labels[:64]
        assert card["results"]["test_accuracy"] == right.double().mean().item()
        assert 0 <= card["results"]["attacked_accuracy"] <= 1
        assert kind.startswith("substitute-") or card["results"]["training_seconds"] > 0
        assert card["data"] == found.copy and f"--only {kind}" in card["recipe"]
    results = models.card("cifar10/generator", folder=smoke)["results"]
    assert sum(results["class_probabilities"]) == pytest.approx(1)
    assert results["frechet"]["generated"] > results["frechet"]["train"] >= 0
    assert models.load("cifar10/generator", folder=smoke)(torch.zeros(1, 100)).shape == (1, 3, 32, 32)


def test_the_networks_of_the_race_are_what_they_are_called(smoke):
    def results(kind):
        return models.card(f"cifar10/{kind}", folder=smoke)["results"]

    assert results("distilled")["temperature"] == 20
    assert results("fgsm-trained")["eps"] == results("ensemble-trained")["eps"] == pytest.approx(8 / 255)
    assert "eps" not in results("surrogate")
    for victim in race.VICTIMS:
        found = results(f"substitute-{victim}")
        assert (found["victim"], found["queries"]) == (victim, 8 * 2**5) and 0 <= found["agreement"] <= 1
    first, *others = (models.load(f"cifar10/{kind}", folder=smoke).state_dict() for kind in race.NETWORKS)
    assert not any(torch.equal(first["1.weight"], other["1.weight"]) for other in others)


def test_the_race_is_run_on_what_was_trained(smoke, root, monkeypatch):
    some = {name: arms_race.all_attacks(pixels=0.05)[name] for name in ("FGSM", "JSMA")}
    monkeypatch.setattr(arms_race, "all_attacks", lambda *, pixels: some)
    found = arms_race.run("cifar10", weights=smoke, root=root, images=4, chunk=3)
    assert found.accuracy.shape == (6, 4, 2) and not found.accuracy.isnan().any()
    assert found.provenance["eps"] == 8 / 255 and found.provenance["data"] == "4 held-out images of cifar10"
    images, labels = data.cifar10(root=root).test_images[:4] / 255, data.cifar10(root=root).test_labels[:4]
    for name, victim in arms_race.shipped_victims("cifar10", weights=smoke)[0].items():
        if name != "random":
            right = (victim.answer(images).argmax(1) == labels).double().mean()
            assert found.clean[found.victims.index(name)] == right


def test_a_finished_run_is_left_alone(smoke, root, monkeypatch):
    before = {path: path.read_bytes() for path in smoke.rglob("*") if path.is_file()}
    monkeypatch.setattr(images, "train_classifier", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(images, "train_dcgan", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(images, "train_racer", lambda *_: pytest.fail("trained again"))
    registry = train_images("cifar10", smoke, preset="smoke", root=root, device="cpu")
    assert before == {path: path.read_bytes() for path in smoke.rglob("*") if path.is_file()}
    assert list(registry) == [f"cifar10/{kind}" for kind in KINDS]


# Ten batches an epoch, a checkpoint every four: kills come in the middle of an epoch.
LONG = {
    "wide-resnet-adversarial": replace(SMOKE["wide-resnet-adversarial"], epochs=4, batch_size=40, judged=16),
    "generator": replace(SMOKE["generator"], steps=120, batch_size=40, judged=16),
}


@pytest.mark.parametrize("kind", LONG)
def test_a_killed_run_resumes_to_the_same_result(kind, smoke, root, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS["cifar10"]["smoke"], kind, LONG[kind])
    folders = [tmp_path / "killed", tmp_path / "whole"]
    needed = "vgg" if kind == "generator" else "wide-resnet"
    for folder in folders:
        folder.mkdir()
        registry = {f"cifar10/{needed}": models.card(f"cifar10/{needed}", folder=smoke)}
        (folder / "registry.json").write_text(json.dumps(registry))
        shutil.copy(smoke / f"cifar10-{needed}.safetensors", folder)
    options = dict(preset="smoke", root=str(root), device="cpu", only=kind)
    program = f"""
from companion import data
from companion.training import *
data.CIFAR10_RECORDS = {RECORDS}
PRESETS["cifar10"]["smoke"][{kind!r}] = {LONG[kind]!r}
train_images("cifar10", {str(folders[0])!r}, **{options!r})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    log, steps = folders[0] / f"cifar10-{kind}.csv", 120 if kind == "generator" else 40
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert len(log.read_text().splitlines()) <= steps // 4
    assert not (folders[0] / f"cifar10-{kind}.safetensors").exists()
    for folder in folders:
        train_images("cifar10", folder, **options)
    assert_equal(*map(weights, folders))
    assert log.read_text() == (folders[1] / log.name).read_text()
    cards = [models.card(f"cifar10/{kind}", folder=folder) for folder in folders]
    for card in cards:
        assert card["results"].pop("training_seconds") > 0
    assert cards[0] == cards[1]


def test_house_numbers_are_not_flipped(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for name, count in (("train_32x32.mat", 150), ("test_32x32.mat", 20)):
        pixels, labels = random.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), random.integers(1, 11, (count, 1))
        savemat(tmp_path / name, {"X": pixels, "y": labels.astype(np.uint8)})
    flips, shift = set(), images.shift
    monkeypatch.setattr(images, "shift", lambda *args, flip: flips.add(flip) or shift(*args, flip=flip))
    registry = train_images("svhn", tmp_path / "out", preset="smoke", root=tmp_path, device="cpu", only="lenet")
    assert flips == {False} and registry["svhn/lenet"]["data"]["data"] == "svhn"


def test_another_seed_gives_other_weights_and_no_global_state_changes(smoke, root, tmp_path):
    state = torch.random.get_rng_state()
    for folder, seed in ((tmp_path / "same", 0), (tmp_path / "other", 1)):
        train_images("cifar10", folder, preset="smoke", root=root, device="cpu", only="vgg", seed=seed)
    assert torch.equal(state, torch.random.get_rng_state())
    name = "cifar10-vgg.safetensors"
    assert (tmp_path / "same" / name).read_bytes() == (smoke / name).read_bytes()
    assert (tmp_path / "other" / name).read_bytes() != (smoke / name).read_bytes()


def test_a_checkpoint_of_other_data_is_refused(smoke, root, tmp_path):
    copy, changed = shutil.copytree(smoke, tmp_path / "out"), shutil.copytree(root, tmp_path / "data")
    content = bytearray((changed / "test_batch.bin").read_bytes())
    content[100] ^= 1
    (changed / "test_batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match="out must not hold a run of another seed or recipe"):
        train_images("cifar10", copy, preset="smoke", root=changed, device="cpu", only="vgg")


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(data="cifar100"), "data must be one of cifar10, svhn, got 'cifar100'"),
        (dict(preset="large"), "preset must be one of smoke, cpu, gpu, full, got 'large'"),
        (dict(only="lenet"), "only must be one of vgg, wide-resnet, .*, got 'lenet'"),
        (dict(only="wide-resnet-adversarial"), "out must hold cifar10/wide-resnet first, got .* --only wide-resnet"),
        (dict(only="generator"), "out must hold cifar10/vgg first"),
    ],
)
def test_bad_options_are_named(change, message, root, tmp_path):
    options = dict(data="cifar10", preset="smoke", root=root, device="cpu") | change
    with pytest.raises(ValueError, match=message):
        train_images(options.pop("data"), tmp_path, **options)


def test_the_command_line_says_where_the_data_must_be(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="root must be a folder"):
        main(["train", "cifar10", "--preset", "smoke", "--root", str(tmp_path / "none"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        main(["train", "svhn", "--only", "vgg", "--out", str(tmp_path)])
    assert "resnet-101" in capsys.readouterr().err


@pytest.mark.parametrize("name, preset", [(name, preset) for name in PRESETS for preset in PRESETS[name]])
def test_every_recipe_can_be_built_and_its_parts_come_before_it(name, preset):
    seen = []
    for kind, recipe in PRESETS[name][preset].items():
        with torch.device("meta"):
            network = models.build(recipe.architecture)
        needed = getattr(recipe, "start", None) or getattr(recipe, "judge", None)
        assert needed is None or needed in seen
        if getattr(recipe, "start", None):
            assert PRESETS[name][preset][recipe.start].architecture == recipe.architecture
        assert isinstance(network, nn.Sequential)
        seen.append(kind)


def test_uniform_numbers_are_those_of_the_published_mixer_and_look_random():
    def mixed(x: np.ndarray) -> np.ndarray:
        x = x ^ (x >> np.uint32(16))
        x = x * np.uint32(0x7FEB352D)
        x = x ^ (x >> np.uint32(15))
        x = x * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))

    shape, device = torch.Size([100, 3, 40, 5]), torch.device("cpu")
    found = [images.uniform(shape, seed, device).flatten().numpy() for seed in (7, 8, 2**31 - 1)]
    for seed, numbers in zip((7, 8, 2**31 - 1), found, strict=True):
        counter = np.arange(60_000, dtype=np.uint32) + mixed(np.array([seed], dtype=np.uint32))
        assert np.array_equal(numbers, (mixed(counter) >> np.uint32(8)).astype(np.float32) / 2**24)
        assert kstest(numbers, "uniform").pvalue > 0.001
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4 / 60_000**0.5
    assert np.abs(np.corrcoef(found) - np.eye(3)).max() < 4 / 60_000**0.5


@pytest.mark.parametrize("flip", [False, True])
def test_shifts_are_those_of_a_mirrored_border(flip):
    pictures = torch.arange(40 * 3 * 8 * 8).reshape(40, 3, 8, 8) % 251
    moved = images.shift(pictures, torch.Generator().manual_seed(1), flip=flip, pixels=2)
    padded = np.pad(pictures.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    flips = 0
    for before, after in zip(padded, moved.numpy(), strict=True):
        views = [before[:, r : r + 8, c : c + 8] for r in range(5) for c in range(5)]
        plain = any((view == after).all() for view in views)
        flips += not plain
        assert plain or any((view[..., ::-1] == after).all() for view in views)
    assert 8 <= flips <= 32 if flip else flips == 0


def test_shifts_let_gradients_through():
    pictures = torch.rand(2, 3, 32, 32, requires_grad=True)
    images.shift(pictures, torch.Generator().manual_seed(0), flip=True).sum().backward()
    # Pixels that left the image weigh nothing, mirrored ones weigh more, together as much as before.
    assert pictures.grad.sum() == pictures.numel() and pictures.grad.max() >= 1


def test_worst_case_stays_within_its_radius_and_does_its_work():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    x, y = torch.rand(20, 3, 4, 4), torch.arange(20) % 10
    losses = [F.cross_entropy(network(x), y)]
    for steps in (1, 10):
        worst = images.worst_case(network, x, y, steps=steps, random=torch.Generator().manual_seed(0))
        assert (worst - x).abs().max() <= images.RADIUS * (1 + 1e-5)
        assert worst.min() >= 0 and worst.max() <= 1 and not worst.requires_grad
        losses.append(F.cross_entropy(network(worst), y))
    assert losses[0] < losses[1] <= losses[2]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_average_forgets_its_beginning():
    fast = nn.BatchNorm1d(1)
    average = images.Average(fast, 0.998)
    slow = average.network
    fast.load_state_dict({key: torch.full_like(value, 5) for key, value in fast.state_dict().items()})
    average.follow(0)  # by 0.9 in the first step
    assert slow.weight.item() == pytest.approx(1 + 0.9 * 4)
    assert slow.running_mean.item() == pytest.approx(4.5) and slow.num_batches_tracked == 0
    before = slow.running_mean.item()
    average.follow(10**6)
    assert slow.running_mean.item() == pytest.approx(before + 0.002 * (5 - before))


def test_batch_norm_is_measured_anew():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = models.build({"builder": "dcgan_generator", "latent_dim": 5, "width": 4}).requires_grad_(False)
    images.measure_statistics(generator, 0, batches=20)
    assert not generator.training
    draws = torch.Generator().manual_seed(0)
    z = torch.cat([torch.randn(200, 5, generator=draws) for _ in range(20)])
    first = generator[:2](z).transpose(0, 1).flatten(1)
    torch.testing.assert_close(generator[2].running_mean, first.mean(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(generator[2].running_var, first.var(1), rtol=0.02, atol=0)


def test_the_rate_rises_then_falls_to_zero():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    found = []
    for done in (0.0, 0.1, 0.2, 0.6, 1.0):
        images._triangle(optimizer, 0.5, done)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.05, 0.25, 0.5, 0.25, 0.0])
