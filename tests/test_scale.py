"""Chunks here and on a real Dask cluster: the same numbers, nothing measured twice, whatever dies on the way."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import psutil
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from scipy import stats
from test_experiments import OPTIONS, write_networks
from torch import nn

import companion
from companion import _files, _jobs, _networks, _registry, arms_race, models, robustness, scale
from companion.__main__ import _client, main
from companion._cluster import connected
from companion._jobs import Job
from companion._store import Store
from companion.circle import Circle, HalfPlane
from companion.experiments import table
from companion.smoothness import local_modulus
from companion.vulnerability import measured_robustness_quantile, measured_vulnerable_fraction

FEW = dict(steps=6, metric_steps=2, chunk=4)


@pytest.fixture(scope="module")
def client():
    with connected(workers=2) as client:
        yield client


@pytest.fixture
def digits():
    return models.load("digits/generator"), models.load("digits/mlp")


def noted(job: Job, index: int) -> dict:
    """A measurement that writes down when it begins and ends; `given` says how long it takes and which one fails."""
    seconds, failing, log = job.given
    with open(log, "a") as file:
        file.write(f"begin {index} {os.getpid()}\n")
    time.sleep(seconds)
    if index == failing:
        raise ZeroDivisionError(f"chunk {index}")
    with open(log, "a") as file:
        file.write(f"end {index} {os.getpid()}\n")
    return {"x": torch.arange(job.rows(index)) + index * job.chunk}


def a_job(folder: Path, *, samples=40, chunk=2, store="store", seconds=0.05, failing=-1, **plan) -> Job:
    where = None if store is None else Store(folder / store if "://" not in store else store)
    given = seconds, failing, str(folder / "log")
    return Job("noted", noted, {"seed": 0} | plan, samples, chunk, where, "cpu", given=given)


def values(job: Job, client=None) -> list[int]:
    columns, _ = _jobs.columns(_jobs.run(job, client=client))
    return columns["x"].tolist()


def log(folder: Path) -> list[tuple[str, int, int]]:
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [(word, int(index), int(process)) for word, index, process in map(str.split, lines)]


def begun(folder: Path) -> Counter:
    return Counter(index for word, index, _ in log(folder) if word == "begin")


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "store").glob("*/*.safetensors"))


def processes(client) -> dict[str, int]:
    return client.run(os.getpid)


def tasks(client, name: str) -> int:
    """How many tasks of that name the scheduler holds."""
    return client.run_on_scheduler(
        lambda dask_scheduler: sum(str(key).startswith(name) for key in dask_scheduler.tasks)
    )


# The same numbers.


def test_radii_are_those_of_the_latents(digits):
    found = scale.radii(*digits, 10, seed=3, **FEW)
    for index, rows in ((0, slice(0, 4)), (2, slice(8, 10))):
        z = scale.latents(3, index, len(found.label[rows]), 16).float()
        expected = robustness.radii(*digits, z, steps=6, metric_steps=2, seed=3)
        for name in ("latent", "in_distribution", "unconstrained"):
            assert torch.equal(getattr(found, name)[rows], getattr(expected, name))
        assert torch.equal(found.label[rows], digits[1](digits[0](z)).argmax(1))


def test_a_cluster_measures_the_same_to_the_bit(digits, client, tmp_path):
    here = scale.radii(*digits, 18, **FEW)
    there = scale.radii(*digits, 18, client=client, store=tmp_path, **FEW)
    assert all(torch.equal(one, other) for one, other in zip(here[:4], there[:4], strict=True))
    assert here.provenance == there.provenance
    options = dict(t=[0.2, 0.5], steps=4, chunk=200, seed=1)
    here, there = (scale.census(*digits, 900, client=one, **options) for one in (None, client))
    assert all(torch.equal(one, other) for one, other in zip(here[:4], there[:4], strict=True))


def test_the_table_on_a_cluster_is_the_same_file(client, tmp_path):
    write_networks(tmp_path / "weights")
    options = OPTIONS | dict(samples=10, weights=tmp_path / "weights")
    for name, one in (("here", None), ("there", client)):
        table("cifar10", tmp_path / name, client=one, **options)
    for name in ("table.md", "table.csv", "radii.safetensors"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


def few_attacks(names: tuple[str, ...] = ()) -> None:
    """Leaves a process some of the arms race's attacks, or gives it back all."""
    everything = getattr(arms_race, "_everything", arms_race.all_attacks)
    arms_race._everything = everything
    arms_race.all_attacks = (lambda **_: {name: everything()[name] for name in names}) if names else everything


def test_the_arms_race_on_a_cluster_is_the_same(client):
    wanted = ("FGSM", "JSMA")
    try:
        few_attacks(wanted)
        client.run(few_attacks, wanted)
        here, there = (arms_race.run(images=2, chunk=1, client=one) for one in (None, client))
    finally:
        few_attacks()
        client.run(few_attacks)
    for name in ("accuracy", "distance", "clean"):
        torch.testing.assert_close(getattr(here, name), getattr(there, name), rtol=0, atol=0, equal_nan=True)


def test_networks_are_neither_moved_nor_changed(digits, tmp_path):
    before = [{name: value.clone() for name, value in network.state_dict().items()} for network in digits]
    scale.radii(*digits, 2, device="cpu", store=tmp_path, **FEW)
    for network, state in zip(digits, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_latents_are_normal_and_every_chunk_has_its_own():
    parts = [scale.latents(seed, index, 20_000, 2) for seed in (0, 1) for index in (0, 1, 2**40)]
    for z in parts:
        assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
    correlation = torch.corrcoef(torch.stack([z.flatten() for z in parts]))
    assert (correlation - torch.eye(6)).abs().max() < 0.03
    assert torch.equal(scale.latents(1, 7, 5, 3), scale.latents(1, 7, 9, 3)[:5])


def test_every_seed_has_latents_of_its_own():
    seeds = (0, 2**53, 2**53 + 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1)
    assert len({scale.latents(seed, 0, 1, 1).item() for seed in seeds}) == len(seeds)


class Scaled(nn.Module):
    """A generator whose numbers depend on an attribute."""

    latent_dim = 3

    def __init__(self, by) -> None:
        super().__init__()
        self.by = by

    def forward(self, z):
        return (self.by(z) if callable(self.by) else z * self.by).tanh()


def test_networks_with_parametrizations_are_sent_and_left_alone(client):
    torch.manual_seed(0)
    layers = (
        nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
    )
    classifier, x = nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1]).eval(), torch.randn(5, 3)
    before = classifier(x)
    here, there = (scale.radii(Scaled(2.0).eval(), classifier, 4, client=one, **FEW) for one in (None, client))
    assert all(torch.equal(one, other) for one, other in zip(here[:4], there[:4], strict=True))
    assert torch.equal(classifier(x), before) and nn.utils.parametrize.is_parametrized(classifier[0])


def test_large_networks_are_sent_without_a_word(client, recwarn):
    classifier = nn.Linear(3, 2).eval()
    classifier.register_buffer("ballast", torch.zeros(2**22))
    scale.census(Scaled(2.0).eval(), classifier, 4, client=client)
    assert not [str(warning.message) for warning in recwarn if "graph" in str(warning.message)]


def test_networks_that_cannot_be_sent_are_refused(client, digits):
    lock = threading.Lock()
    with pytest.raises(ValueError, match="networks must be such that pickle can send them to workers.*lock"):
        scale.census(digits[0], lambda x: (lock, digits[1](x))[1], 4, client=client)


def test_a_network_is_moved_as_a_copy():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert _networks.placed(network, "cpu") is network
    moved = _networks.placed(network, "meta")
    assert {value.device.type for value in _networks.tensors(moved)} == {"meta"}
    assert {value.device.type for value in _networks.tensors(network)} == {"cpu"}


# The census.


def test_levels_are_the_first_that_are_no_smaller():
    exact = 1.01 ** torch.arange(-300.0, 300.0, 7.0, dtype=torch.float64)
    any_size = 10 ** torch.linspace(-30, 30, 999, dtype=torch.float64)
    sizes = torch.cat([exact, exact.nextafter(torch.tensor(math.inf)), any_size])
    steps = scale._size(sizes)
    assert (scale._level(steps) >= sizes).all() and (scale._level(steps - 1) < sizes).all()
    ends = scale._level(scale._size(torch.tensor([0.0, math.inf], dtype=torch.float64)))
    assert ends.tolist() == [0.0, math.inf]


@pytest.mark.parametrize("chunk", [1000, 300])
def test_a_census_says_what_the_moduli_say(digits, chunk):
    t = [0.2, 0.3, 0.5]
    found = scale.census(*digits, 1000, t=t, steps=4, chunk=chunk)
    parts = [scale.latents(0, index, min(chunk, 1000 - start), 16) for index, start in enumerate(range(0, 1000, chunk))]
    z = torch.cat(parts).float()
    moduli = torch.cat([local_modulus(digits[0], part.float(), t, steps=4, restarts=2) for part in parts]).double()
    counts = torch.bincount(digits[1](digits[0](z)).argmax(1), minlength=10)
    assert torch.equal(found.class_counts, counts) and found.moduli.sum(1).tolist() == [1000] * 3
    q = torch.tensor([0.05, 0.25, 0.5], dtype=torch.float64)
    exact = measured_robustness_quantile(q, t, moduli, class_counts=counts)
    assert (found.robustness_quantile(q) >= exact).all() and (found.robustness_quantile(q) <= 1.01 * exact).all()
    eta = torch.rand(3, 40, dtype=torch.float64) * moduli.max()
    exact, low = (measured_vulnerable_fraction(at, t, moduli, class_counts=counts) for at in (eta, eta / 1.01))
    fraction = found.vulnerable_fraction(eta)
    assert (fraction <= exact).all() and (fraction >= low).all() and fraction.shape == eta.shape
    at_levels = measured_vulnerable_fraction(found.levels, t, moduli, class_counts=counts)
    assert torch.equal(found.vulnerable_fraction(found.levels), at_levels)


def test_a_census_in_a_world_where_all_is_known():
    """The circle: two equal classes, and every local modulus of t = 0.5 is 2 sin(t / 2)."""
    found = scale.census(Circle(), HalfPlane((1.0, 0.0), 0.0), 4000, t=[0.5], key="circle", chunk=1500)
    assert found.class_counts.sum() == 4000 and found.moduli.sum() == 4000
    size = scale._level(scale._size(local_modulus(Circle(), torch.zeros(1, 1).double(), [0.5])[0].double()))
    assert found.levels[found.moduli[0].argmax()] == size and found.moduli.max() > 3990


def test_labels_alone_need_no_moduli(digits):
    found = scale.census(*digits, 500)
    assert found.moduli.shape == (0, 0) and found.class_counts.sum() == 500
    with pytest.raises(ValueError, match="t must hold at least one latent radius"):
        found.robustness_quantile(0.25)


# Nothing is measured twice.


@pytest.mark.parametrize("store", ["store", "memory://scale-test"])
def test_what_is_there_counts(store, tmp_path):
    assert values(a_job(tmp_path, samples=7, seconds=0, store=store)) == [*range(7)]
    assert values(a_job(tmp_path, samples=12, seconds=0, store=store)) == [*range(12)]
    assert begun(tmp_path) == Counter({0: 1, 1: 1, 2: 1, 3: 2, 4: 1, 5: 1})  # chunk 3 had one row of two
    values(a_job(tmp_path, samples=12, seconds=0, store=store, seed=1))
    values(a_job(tmp_path, samples=12, seconds=0, store=store, chunk=3))
    assert begun(tmp_path).total() == 7 + 6 + 4
    assert values(a_job(tmp_path, samples=7, seconds=0, store=store)) == [*range(7)] and begun(tmp_path).total() == 17


def test_other_weights_are_another_plan(digits, tmp_path):
    generator, classifier = digits
    options = dict(store=tmp_path, **FEW)
    scale.radii(generator, classifier, 2, **options)
    scale.radii(generator, models.load("digits/mlp"), 2, **options)
    assert len([*tmp_path.iterdir()]) == 1
    other = models.load("digits/mlp")
    other[1].weight.data[0, 0] += 2**-10
    scale.radii(generator, other, 2, **options)
    scale.radii(generator, nn.Sequential(*classifier, nn.Identity()).eval(), 2, **options)
    scale.radii(generator, classifier, 2, key="second version", **options)
    scale.radii(generator, classifier, 2, **options | dict(steps=7))
    assert len([*tmp_path.iterdir()]) == 5


def unlike() -> dict[str, nn.Module]:
    """Networks that answer differently, though state dicts or printed forms are often the same."""

    class Held:
        def __init__(self, mean) -> None:
            self.mean = mean

    def times(number):
        return lambda x: x * number

    def buffered(value, **options) -> nn.Module:
        network = nn.Identity()
        network.register_buffer("value", value, **options)
        return network

    attributes = [1.0, 2.0, torch.zeros(3), torch.ones(3), np.ones(3), [nn.ReLU()], [nn.Tanh()], Held(0.0), Held(1.0)]
    attributes += [times(2), times(3), lambda x: x + 1, lambda x: x + 2, functools.partial(torch.mul, other=2)]
    attributes += [functools.partial(torch.mul, other=3), nn.ReLU().forward, nn.Tanh().forward, {"b", "a"}, {"b", "c"}]
    networks: list[nn.Module] = [Scaled(each) for each in attributes]
    networks += [buffered(torch.tensor(value), persistent=False) for value in (0.0, 1.0)]
    complex_ = torch.tensor([1.0 + 2.0j])
    values = [complex_, complex_.conj(), complex_.conj().imag, torch.tensor(True), torch.ones(1).bfloat16()]
    values += [torch.zeros(0, 2), torch.eye(3).to_sparse(), torch.arange(2)[::2]]
    networks += [buffered(value) for value in values]
    itself = Scaled([])
    itself.by.append(itself)
    networks += [itself, nn.Sequential(nn.Sequential(nn.Identity()), nn.Identity())]
    networks += [nn.Sequential(nn.Sequential(nn.Identity(), nn.Identity())), torch.compile(nn.Identity())]
    return {str(number): network.eval() for number, network in enumerate(networks)}


def digests() -> dict[str, str]:
    return {name: _networks.digest(network) for name, network in unlike().items()}


def test_unlike_networks_never_share_chunks_and_alike_ones_do_in_every_process():
    found = digests()
    assert len({*found.values()}) == len(found)
    code = "import json, test_scale; print(json.dumps(test_scale.digests()))"
    for seed in "12":
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path}
        again = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert json.loads(again.stdout) == found


def test_two_runs_share_a_store(tmp_path):
    """Only what was in flight elsewhere when it was begun is measured twice."""
    with connected(workers=1 + 1) as one, connected(workers=2) as other:
        first = _jobs.run(a_job(tmp_path, samples=80), client=one)
        second = _jobs.run(a_job(tmp_path, samples=80), client=other)
        chunks = [chunk for pair in itertools.zip_longest(first, second) for chunk in pair]
    assert sorted(chunk.number for chunk in chunks) == sorted([*range(40)] * 2)
    finished: set[int] = set()
    for word, index, _ in log(tmp_path):
        assert not (word == "begin" and index in finished)
        if word == "end":
            finished.add(index)
    assert begun(tmp_path).total() < 60


def test_two_chunks_do_not_wait_for_one_worker(client, tmp_path):
    job = replace(a_job(tmp_path, samples=4, seconds=3), name="two long ones")
    assert values(job, client) == [*range(4)]
    assert len({process for _, _, process in log(tmp_path)}) == 2


# Whatever dies on the way.


@pytest.mark.parametrize("killed", [1, 2])
def test_killed_workers_cost_what_they_had_in_hand(killed, client, tmp_path):
    job = a_job(tmp_path, samples=80)
    chunks = []
    for chunk in _jobs.run(job, client=client):
        chunks.append(chunk)
        if len(chunks) == 5:
            for process in [*processes(client).values()][:killed]:
                os.kill(process, signal.SIGKILL)
    assert sorted(chunk.number for chunk in chunks) == [*range(40)]
    assert _jobs.columns(chunks)[0]["x"].tolist() == [*range(80)]
    assert begun(tmp_path).total() <= 40 + killed
    client.wait_for_workers(2, timeout=60)


def test_a_killed_scheduler_loses_nothing(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pieces: list[subprocess.Popen] = []

    def start(*command: str) -> None:
        options = dict(env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
        pieces.append(
            subprocess.Popen([sys.executable, "-m", "distributed.cli." + command[0], *command[1:]], **options)
        )

    def cluster(file: str) -> None:
        start("dask_scheduler", f"--scheduler-file={file}", "--port=0", "--no-dashboard", "--host=127.0.0.1")
        start("dask_worker", f"--scheduler-file={file}", "--nthreads=1", "--no-dashboard")

    from distributed import Client

    job = a_job(tmp_path, samples=80)
    try:
        cluster("first")
        with Client(scheduler_file=str(tmp_path / "first"), set_as_default=False, timeout=60) as client:
            run = _jobs.run(job, client=client)
            with pytest.raises(ConnectionError, match="the scheduler was lost .* the same command goes on"):
                for count, _ in enumerate(run):
                    if count == 5:
                        pieces[0].kill()
        time.sleep(0.2)  # what was in hand may still be written
        done, before = len(stored(tmp_path)), begun(tmp_path).total()
        assert 6 <= done < 40
        cluster("second")
        with Client(scheduler_file=str(tmp_path / "second"), set_as_default=False, timeout=60) as client:
            assert values(job, client) == [*range(80)]
    finally:
        for piece in pieces:
            for process in [*psutil.Process(piece.pid).children(recursive=True), piece]:
                process.kill()
            piece.wait()
    assert begun(tmp_path).total() - before <= 40 - done and before - done <= 2


def test_a_chunk_that_raises_loses_no_other(client, tmp_path):
    with pytest.raises(ZeroDivisionError, match="chunk 7"):
        values(a_job(tmp_path, failing=7), client)
    done = {int(name.split("-")[0]) for name in stored(tmp_path)}
    assert values(a_job(tmp_path), client) == [*range(40)]
    assert begun(tmp_path)[7] == 2 and begun(tmp_path).total() <= 20 + 1 + 2  # what was in hand may be begun again
    assert all(begun(tmp_path)[index] == 1 for index in done)


def test_workers_that_die_again_and_again_are_reported(tmp_path):
    with connected(workers=2) as client:
        with pytest.raises(ChildProcessError, match="workers ended again and again over deadly-.*memory runs out"):
            values(Job("deadly", deadly, {}, 1, 1, Store(tmp_path), "cpu"), client)


def deadly(job: Job, index: int) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_interrupted_it_leaves_the_cluster_clean(client, tmp_path):
    run = _jobs.run(a_job(tmp_path, samples=400), client=client)
    next(run)
    assert tasks(client, "noted") > 50
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run.throw(KeyboardInterrupt)
    while tasks(client, ""):
        assert time.monotonic() - began < 5
        time.sleep(0.05)
    done = len(stored(tmp_path))
    time.sleep(0.5)
    assert len(stored(tmp_path)) <= done + 2


def test_the_scheduler_knows_few_chunks_at_a_time(client, tmp_path):
    most = 0
    for count, _ in enumerate(_jobs.run(a_job(tmp_path, samples=600, chunk=1, seconds=0, store=None), client=client)):
        if count % 50 == 0:
            most = max(most, tasks(client, ""))
    assert count == 599 and most <= 66


# Stores.


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_is_reported_and_loses_nothing(client, tmp_path):
    values(a_job(tmp_path, samples=10), client)
    client.run(limit_files, 200)
    try:
        with pytest.raises(OSError, match="could not write .*safetensors: File too large; make room"):
            values(a_job(tmp_path, samples=20), client)
    finally:
        client.run(limit_files, resource.RLIM_INFINITY)
    assert len(stored(tmp_path)) == 5
    assert values(a_job(tmp_path, samples=20), client) == [*range(20)]
    assert all(begun(tmp_path)[index] == 1 for index in range(5))


def test_a_store_that_cannot_be_written_is_reported_before_the_work(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="could not write"):
        values(a_job(tmp_path, store="file"))
    with pytest.raises(ValueError, match="store must be a folder or an address of fsspec, got 'nonsense://x'"):
        values(a_job(tmp_path, store="nonsense://x"))
    assert not log(tmp_path)


def test_a_store_that_has_all_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    values(a_job(tmp_path, samples=8))

    def refuse(*_):
        raise OSError("read-only file system")

    monkeypatch.setattr(Store, "ready", refuse)
    monkeypatch.setattr(Store, "write", refuse)
    assert values(a_job(tmp_path, samples=8)) == [*range(8)]
    with pytest.raises(OSError, match="read-only"):
        values(a_job(tmp_path, samples=10))
    assert begun(tmp_path).total() == 4


class Slow(LocalFileSystem):
    """A disk that takes its time, and sometimes fails."""

    protocol = "slow"

    def pipe_file(self, path, value, **options):
        time.sleep(0.2)
        with open(path, "wb") as file:
            file.write(value)

    def cat_file(self, path, **options):
        time.sleep(0.2)
        return super().cat_file(path, **options)


def register_slow() -> None:
    fsspec.register_implementation("slow", Slow, clobber=True)


def test_a_slow_store_is_waited_for(client, tmp_path):
    register_slow()
    client.run(register_slow)
    for _ in range(2):
        assert values(a_job(tmp_path, samples=8, store=f"slow://{tmp_path}/store"), client) == [*range(8)]
    assert begun(tmp_path).total() == 4


def test_what_killed_writers_left_in_a_store_is_cleared_away(tmp_path):
    values(a_job(tmp_path, samples=2))
    folder = next((tmp_path / "store").iterdir())
    for name, age in (("old", 2 * _files.HOUR), ("new", 0)):
        (folder / f".{name}.0123.unfinished").write_bytes(b"")
        os.utime(folder / f".{name}.0123.unfinished", (time.time() - age,) * 2)
    values(a_job(tmp_path, samples=4))
    assert [path.name for path in folder.glob(".*")] == [".new.0123.unfinished"]


def test_a_file_address_is_a_folder(tmp_path):
    values(a_job(tmp_path, samples=4, store=f"file://{tmp_path}/store"))
    assert stored(tmp_path) == ["00000000-2.safetensors", "00000001-2.safetensors"]
    values(a_job(tmp_path, samples=4))
    assert begun(tmp_path).total() == 2


def test_a_store_that_workers_do_not_see_is_refused(client, tmp_path):
    with pytest.raises(
        ValueError, match="worker tcp://.* does not see the store 'memory://here'; .* all machines share"
    ):
        values(a_job(tmp_path, store="memory://here"), client)
    assert not log(tmp_path)


def test_a_damaged_chunk_is_named(client, tmp_path):
    values(a_job(tmp_path, samples=4))
    path = next((tmp_path / "store").glob("*/00000001-2.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(_files.Damaged, match=f"{path} is damaged.*; delete it and give the same command again"):
        values(a_job(tmp_path, samples=4), client)
    path.unlink()
    assert values(a_job(tmp_path, samples=4), client) == [*range(4)]


@pytest.mark.parametrize("other", ["00000000-2", "00000002-1"])
def test_another_chunk_under_its_name_is_refused(other, tmp_path):
    values(a_job(tmp_path, samples=5, seconds=0))
    folder = next((tmp_path / "store").glob("*"))
    shutil.copy(folder / f"{other}.safetensors", folder / "00000001-2.safetensors")
    with pytest.raises(_files.Damaged, match="00000001-2.safetensors is another chunk"):
        values(a_job(tmp_path, samples=5))


def test_a_store_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    assert values(a_job(tmp_path, samples=4, seconds=0)) == [*range(4)] and len(stored(tmp_path)) == 2


def test_a_store_may_lie_in_a_folder_of_others():
    code = """
import os, sys, torch
from companion import _jobs
os.getuid() or os.seteuid(65534)  # root may write everywhere
job = _jobs.Job("x", lambda job, index: {"x": torch.zeros(2)}, {}, 2, 2, _jobs.Store(sys.argv[1]), "cpu")
print(len([*_jobs.run(job)]))
"""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        store.mkdir(mode=0o777)
        store.chmod(0o777)
        Path(folder).chmod(0o555)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        found = subprocess.run([sys.executable, "-c", code, store], env=environment, capture_output=True, text=True)
        Path(folder).chmod(0o755)
    assert found.stdout == "1\n", found.stderr


@pytest.mark.parametrize("address", ["file://rel", "local://rel", "rel/", "~/rel"])
def test_a_store_of_this_machine_is_a_whole_path(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store(address).address == str(tmp_path / "rel")


# Workers that are not like us.


def pretend(version: str) -> None:
    companion.__version__ = version


def test_a_worker_of_another_version_is_refused_by_name(client, tmp_path):
    odd = next(iter(processes(client)))
    client.run(pretend, "9.9", workers=[odd])
    try:
        with pytest.raises(ValueError, match=f"worker {odd} has companion 9.9, and this run {companion.__version__}"):
            values(a_job(tmp_path, samples=80), client)
        assert processes(client)[odd] not in {process for _, _, process in log(tmp_path)}
    finally:
        client.run(pretend, companion.__version__)


def other_weights(name: str | None) -> None:
    """Makes a process believe that a network has other weights."""
    trained = getattr(_registry, "_as_it_is", _registry.trained)
    _registry._as_it_is = trained

    def changed(folder):
        return {key: entry | {"sha256": "f" * 64} if key == name else entry for key, entry in trained(folder).items()}

    _registry.trained = changed


def test_a_worker_with_other_weights_is_refused_by_name(client):
    client.run(other_weights, "digits/cnn")
    try:
        with pytest.raises(
            ValueError, match="worker tcp://.*: weights must hold digits/cnn with SHA-256 .*, got ffffff"
        ):
            arms_race.run(images=1, client=client)
    finally:
        client.run(other_weights, None)


def test_threads_of_one_worker_take_turns(tmp_path):
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as cluster:
        with Client(cluster, set_as_default=False) as client:
            values(a_job(tmp_path, samples=20), client)
    assert [word for word, _, _ in log(tmp_path)] == ["begin", "end"] * 10


# What is said.


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(samples=0), "samples must be an integer of at least 1, got 0"),
        (dict(chunk=0), "chunk must be an integer of at least 1, got 0"),
        (dict(steps=0), "steps must be an integer of at least 1, got 0"),
        (dict(metric_steps=-1), "metric_steps must be an integer of at least 0, got -1"),
        (dict(max_latent_norm=-1.0), "max_latent_norm must be .*positive"),
        (dict(seed=-1), "seed must be an integer of at least 0, got -1"),
        (dict(seed=2**64), r"seed must be less than 2\*\*64"),
        (dict(store="x", classifier=lambda x: x.flatten(1)), "key must name what is no nn.Module.* got classifier"),
        (dict(generator=lambda z: z), "latent_dim"),
    ],
)
def test_bad_options_are_named(change, message, digits):
    options = dict(generator=digits[0], classifier=digits[1], samples=4) | change
    with pytest.raises(ValueError, match=message):
        scale.radii(**options)


@pytest.mark.parametrize("t", [[0.5, 0.2], [-1.0], [math.nan], 0.5])
def test_bad_reaches_are_named(t, digits):
    with pytest.raises(ValueError, match="t must"):
        scale.census(*digits, 4, t=t)


def test_numbers_of_any_kind_are_the_same_options(digits, tmp_path):
    for seed, t in ((3, [0.5, 1]), (np.int64(3), np.array([0.5, 1])), (3.0, torch.tensor([0.5, 1]))):
        scale.census(*digits, 4, seed=seed, t=t, steps=1, store=tmp_path)
    assert len([*tmp_path.iterdir()]) == 1


def test_as_many_workers_as_are_wanted_begin():
    with connected(workers=3) as client:
        assert len(processes(client)) == 3


def test_an_interrupt_while_workers_begin_is_heard():
    main_thread = threading.main_thread().ident
    threading.Timer(0.3, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        with connected(workers=2):
            pytest.fail("nobody heard it")


@pytest.mark.parametrize("workers", [0, -1])
def test_too_few_workers_are_refused(workers):
    with pytest.raises(ValueError, match=f"workers must be an integer of at least 1, got {workers}"):
        main(["bound", "digits/generator", "digits/mlp", f"--workers={workers}"])


def test_who_waits_for_a_worker_is_told_so(capsys):
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster:
        options = argparse.Namespace(scheduler=cluster.scheduler_address, workers=1)
        with _client(options):
            assert "no worker is there yet: waiting for the first one" in capsys.readouterr().err
        cluster.scale(1)
        cluster.wait_for_workers(1, timeout=60)
        with _client(options):
            assert "no worker" not in capsys.readouterr().err


def test_a_sample_is_read_as_it_was_saved(digits, tmp_path):
    found = scale.radii(*digits, 3, **FEW)
    scale.save(found, tmp_path / "r")
    again = scale.load(tmp_path / "r")
    assert all(torch.equal(one, other) for one, other in zip(found[:4], again[:4], strict=True))
    assert again.provenance == json.loads(json.dumps(found.provenance))
    (tmp_path / "r").write_bytes((tmp_path / "r").read_bytes()[:-1])
    with pytest.raises(_files.Damaged, match="measure it again"):
        scale.load(tmp_path / "r")


def test_the_commands_say_what_the_functions_find(digits, tmp_path, capsys):
    names = ["digits/generator", "digits/mlp"]
    main(["radii", *names, "--samples=6", "--chunk=3", "--steps=6", "--metric-steps=1", f"--out={tmp_path / 'r'}"])
    found, said = scale.load(tmp_path / "r"), capsys.readouterr().out
    assert f"{scale.quantile(found.in_distribution, 0.25):.4g}" in said and "6 generated images" in said
    assert len([*(tmp_path / "r.chunks").glob("*/*.safetensors")]) == 2
    main(["bound", *names, "--samples=3000", "--reaches", "0.3", "0.5", "--steps=3"])
    found, said = scale.census(*digits, 3000, t=[0.3, 0.5], steps=3), capsys.readouterr().out
    assert f"at most {found.robustness_quantile(0.25).item():.4g}" in said
    main(["bound", *names, "--samples=4", "--reaches"])
    said = capsys.readouterr().out
    assert "4 latents; class probabilities" in said and "radius" not in said


def test_without_dask_one_process_does_everything(tmp_path):
    """An environment in which neither Dask nor fsspec can be imported."""
    for name in ("dask", "distributed", "cloudpickle"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')")
    code = "from companion.__main__ import from_the_shell as run; run()"
    command = [sys.executable, "-c", code, "radii", "digits/generator", "digits/linear", "--samples=2", "--steps=2"]
    command += ["--metric-steps=0", f"--out={tmp_path / 'r'}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    one = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert one.returncode == 0 and "2 generated images" in one.stdout, one.stderr
    two = subprocess.run([*command, "--workers=2"], env=environment, capture_output=True, text=True)
    assert two.returncode != 0 and "need Dask: pip install 'adversarial-vulnerability[cluster]'" in two.stderr
    assert "Traceback" not in two.stderr and not shutil.rmtree(tmp_path / "r.chunks")
