"""The recipe: seeded, and a run killed in the middle ends like one that was not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from companion import arms_race, models
from companion.__main__ import main
from companion.models import quality
from companion.training import Recipe, distort, train_digits

TINY = Recipe(classifier_steps=40, generator_steps=40, lipschitz_steps=20, checkpoint_every=10, batch_size=16)
KILLED = Recipe(generator_steps=150, lipschitz_steps=150, checkpoint_every=5, batch_size=16)


@pytest.fixture(scope="module", autouse=True)
def few_latents_and_draws():
    """What takes most of the time of such small recipes: the measurements, and the 32 draws of a random victim."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "LATENTS", 500)
        patch.setitem(arms_race.SETTINGS, "digits", arms_race.SETTINGS["digits"]._replace(draws=2))
        yield


def weights(folder: Path) -> dict:
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_equal(first: dict, second: dict) -> None:
    assert first.keys() == second.keys() and first
    for name, tensors in first.items():
        assert all(torch.equal(tensors[key], second[name][key]) for key in tensors)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    train_digits(folder, recipe=TINY)
    return folder


def test_what_is_written_loads(tiny):
    assert models.names(folder=tiny) == tuple(name for name in models.names() if name.startswith("digits/"))
    for name in models.names(folder=tiny):
        network, card = models.load(name, folder=tiny), models.card(name, folder=tiny)
        assert next(network.parameters()).dtype == torch.float32
        assert card["seed"] == 0 and card["torch"] == torch.__version__ and card["results"]
    assert len(models.log("digits/generator", folder=tiny)["step"]) == 4


def test_the_log_of_a_training_is_read_or_refused(tiny, tmp_path):
    log = models.log("digits/generator", folder=tiny)
    assert list(log)[0] == "step" and all(column.isfinite().all() for column in log.values())
    assert (log["step"].diff() > 0).all() and log["step"][-1] == TINY.generator_steps
    folder = shutil.copytree(tiny, tmp_path / "copy")
    path = folder / "digits-generator.csv"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(RuntimeError, match="digits-generator.csv is damaged: .*; reinstall the package, or re-create"):
        models.log("digits/generator", folder=folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="the log of 'digits/generator' is missing"):
        models.log("digits/generator", folder=folder)
    with pytest.raises(ValueError, match="name must be a network whose log was kept, got 'digits/generator'"):
        models.log("digits/generator")


def test_same_seed_same_weights_and_another_seed_others(tiny, tmp_path):
    state = torch.random.get_rng_state()
    train_digits(tmp_path / "again", recipe=TINY)
    assert torch.equal(state, torch.random.get_rng_state())
    assert_equal(weights(tiny), weights(tmp_path / "again"))
    train_digits(tmp_path / "other", recipe=TINY, seed=1, only="linear")
    key, name = "1.weight", "digits-linear.safetensors"
    assert not torch.equal(weights(tiny)[name][key], weights(tmp_path / "other")[name][key])


def test_a_finished_run_is_not_run_again(tiny):
    before = (tiny / "registry.json").read_bytes(), (tiny / "digits-cnn.csv").read_bytes()
    train_digits(tiny, recipe=TINY)
    assert before == ((tiny / "registry.json").read_bytes(), (tiny / "digits-cnn.csv").read_bytes())


@pytest.mark.parametrize("kind", ["generator", "lipschitz-1.5"])
def test_a_killed_run_resumes_to_the_same_result(kind, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    call = f"train_digits({str(killed)!r}, only={kind!r}, recipe={KILLED!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    program = f"from companion.training import *; {call}"
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    log = killed / f"digits-{kind}.csv"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) >= 4):
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 4 <= len(log.read_text().splitlines()) < 31 and not (killed / "registry.json").exists()
    train_digits(killed, only=kind, recipe=KILLED)
    train_digits(whole, only=kind, recipe=KILLED)
    assert_equal(weights(killed), weights(whole))
    assert log.read_text() == (whole / log.name).read_text()


def test_a_checkpoint_of_another_seed_is_refused(tiny):
    with pytest.raises(ValueError, match="out must not hold a run of another seed or recipe"):
        train_digits(tiny, recipe=TINY, seed=1)


def test_unknown_network(tmp_path):
    with pytest.raises(ValueError, match="only must be one of linear, mlp, cnn, generator, .* got 'resnet'"):
        train_digits(tmp_path, only="resnet")


def test_distortions_are_small_and_seeded():
    image = torch.zeros(50, 1, 8, 8)
    image[:, :, 2:6, 3:5] = 1
    first, second = (distort(image, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first[0], first[1])
    assert first.min() >= 0 and first.max() <= 1 + 1e-6
    assert torch.allclose(first.sum((1, 2, 3)), image.sum((1, 2, 3)), rtol=0.25)


def test_command_line_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        main(["train", "digits"])
    assert "--out" in capsys.readouterr().err
