"""Faults that happen where people work: kills, full disks, two processes at once, damage, planted links, Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pooch
import psutil
import pytest
import requests
import sklearn.datasets
import sklearn.model_selection
import torch
from safetensors.torch import load_file, save
from test_experiments import columns, write_networks

import companion
from companion import _files, _jobs, _registry, arms_race, data, models
from companion.__main__ import from_the_shell
from companion._jobs import Job
from companion._store import Store
from companion.arms_race import Attack
from companion.experiments import TABLES, stored, table
from companion.smoothness import Lipschitz
from companion.training import Recipe, images, train_digits
from companion.training.run import Run

TINY = Recipe(classifier_steps=4, checkpoint_every=2, batch_size=8)
# Whoever may not write here may not import here either, where root owns the environment: so it is loaded before.
EXTRAS = (pooch, requests, sklearn.datasets, sklearn.model_selection)
processes = multiprocessing.get_context("fork")  # real processes, without importing torch again


def in_a_process(call, *arguments) -> str:
    """What `call` raises in a process of its own, as text; "" if nothing."""
    ours, theirs = processes.Pipe()

    def run() -> None:
        try:
            call(*arguments)
            theirs.send("")
        except BaseException as error:
            theirs.send(f"{type(error).__name__}: {error}")

    process = processes.Process(target=run)
    process.start()
    found = ours.recv()
    process.join()
    return found


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path):
    path, size = tmp_path / "state", 2**21

    def write_for_ever() -> None:
        while True:
            for letter in (b"a", b"b"):
                _files.write(path, letter * size)

    _files.write(path, b"a" * size)
    for pause in torch.rand(12, generator=torch.Generator().manual_seed(0)).tolist():
        process = processes.Process(target=write_for_ever)
        process.start()
        time.sleep(0.05 * pause)
        process.kill()
        process.join()
        content = path.read_bytes()
        assert content in (b"a" * size, b"b" * size)
    for left in tmp_path.glob(".*"):
        os.utime(left, (0, 0))
    _files.write(path, b"c")
    assert [*tmp_path.iterdir()] == [path]  # what killed writers left is cleared away, an hour later


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "state"
    _files.write(path, b"old")

    def write_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))
        _files.write(path, b"x" * 10_000)

    message = in_a_process(write_much)
    assert message.startswith("OSError: ") and f"could not write {path}: File too large; make room" in message
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]


@pytest.fixture
def read_only():
    """A folder that nobody but root can write to; the call is made by somebody else."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        yield Path(folder)


def as_nobody(call, *arguments) -> str:
    def run() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        call(*arguments)

    return in_a_process(run)


@pytest.mark.parametrize("command", [["arms-race", "digits"], ["table", "cifar10"], ["train", "digits"]])
def test_a_read_only_folder_is_reported_before_the_work(command, read_only, monkeypatch):
    name = "result.json" if command[0] == "arms-race" else "out"
    monkeypatch.setattr(sys, "argv", ["companion", *command, "--out", str(read_only / name)])
    began = time.monotonic()
    message = as_nobody(from_the_shell)
    assert f"SystemExit: python -m companion {command[0]}: " in message
    assert f"could not write {read_only}" in message and "Permission denied; make room or name another" in message
    assert time.monotonic() - began < 5


def test_two_processes_add_to_one_registry(tmp_path):
    def add(prefix: str) -> None:
        torch.set_num_threads(1)  # threads do not survive a fork
        for index in range(25):
            entry = {"recipe": "none", "by": prefix}
            _registry.add(tmp_path, f"{prefix}{index}", f"{prefix}.safetensors", {"w": torch.ones(3)}, entry)

    both = [processes.Process(target=add, args=(prefix,)) for prefix in "ab"]
    for process in both:
        process.start()
    while any(process.is_alive() for process in both):
        if (tmp_path / "registry.json").exists():
            _registry.entries(tmp_path)  # whole whenever it is read
    assert [process.exitcode for process in both] == [0, 0]
    assert len(_registry.entries(tmp_path)) == 50
    assert {path.name for path in tmp_path.iterdir()} == {"registry.json", "a.safetensors", "b.safetensors"}


def test_two_processes_train_in_one_folder(tmp_path):
    train_digits(tmp_path / "alone", recipe=TINY, only="linear")

    def train() -> None:
        torch.set_num_threads(1)
        train_digits(tmp_path / "both", recipe=TINY, only="linear")

    both = [processes.Process(target=train) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    for name in ("registry.json", "digits-linear.safetensors", "digits-linear.csv"):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_every_flipped_byte_of_a_state_file_is_found(tmp_path):
    path = tmp_path / "state.safetensors"
    tensors = {"a": torch.arange(7.0), "b": torch.tensor([True, False]), "c": torch.tensor(3)}
    _files.write_tensors(path, tensors, {"plan": "x"})
    content = path.read_bytes()
    found, about = _files.read_tensors(path, "")
    assert about == {"plan": "x"} and all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert all(torch.equal(load_file(path)[key], tensors[key]) for key in tensors)  # others can read it too
    header = 8 + int.from_bytes(content[:8], "little")
    spaces = range(len(content[:header].rstrip(b" ")), header)
    damaged = [flipped(content, place) for place in range(len(content)) if place not in spaces]
    damaged += [content[:length] for length in range(len(content))] + [content + b"0", b"[" * 100_000]
    for changed in damaged:
        path.write_bytes(changed)
        with pytest.raises(_files.Damaged, match=r"state.safetensors is damaged.*; delete it"):
            _files.read_tensors(path, "delete it")


def test_no_flipped_byte_of_a_registry_is_believed(tmp_path):
    folder = shutil.copytree(models.WEIGHTS, tmp_path / "weights")
    path = folder / "registry.json"
    content, right = path.read_bytes(), _registry.entries(folder)
    for place in range(0, len(content), 211):
        _files.write(path, flipped(content, place))
        try:
            found = _registry.entries(folder)
        except _files.Damaged as error:
            assert str(path) in str(error) and "delete it and train again" in str(error)
            continue
        for name in found.keys() & right.keys():  # a name may be another, a word "digest" too: numbers may not
            assert {key: value for key, value in found[name].items() if key in right[name]} == right[name]


NO_REGISTRIES = [b"", b"[]", b'{"digits/cnn": 3}', b'{"digits/cnn": {"file": 3}}', b"\xff", b"[" * 9**6]


@pytest.mark.parametrize("content", NO_REGISTRIES)
def test_what_is_no_registry_is_named(content, tmp_path):
    (tmp_path / "registry.json").write_bytes(content)
    with pytest.raises(_files.Damaged, match=f"{tmp_path}/registry.json is damaged"):
        models.names(folder=tmp_path)


def registry_of(folder: Path, file: str, content: bytes, **changes) -> None:
    entry = dict(models.card("digits/linear"), file=file, sha256=hashlib.sha256(content).hexdigest()) | changes
    _files.write_json(folder / "registry.json", {"digits/linear": entry})


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "sub/../../secret.safetensors", "..", "link"])
def test_a_registry_cannot_point_outside_its_folder(file, tmp_path):
    content = (models.WEIGHTS / "digits-linear.safetensors").read_bytes()
    (tmp_path / "secret.safetensors").write_bytes(content)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret.safetensors")
    registry_of(folder, file, content)
    with pytest.raises(_files.Damaged, match="must lie in its folder"):
        models.load("digits/linear", folder=folder)


def test_an_installation_of_links_to_a_store_loads(tmp_path):
    for path in models.WEIGHTS.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert torch.equal(models.load("digits/linear", folder=tmp_path)[1].weight, models.load("digits/linear")[1].weight)


@pytest.mark.parametrize("builder", ["nn", "_pooled", "annotations", "__import__", None, 3])
def test_a_registry_cannot_call_what_builds_no_network(builder, tmp_path):
    content = (models.WEIGHTS / "digits-linear.safetensors").read_bytes()
    (tmp_path / "w").write_bytes(content)
    registry_of(tmp_path, "w", content, architecture={"builder": builder})
    with pytest.raises(ValueError, match="architecture must name a builder"):
        models.load("digits/linear", folder=tmp_path)


def test_planted_links_are_not_written_through(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_bytes(b"precious")
    folder.mkdir()
    names = ("registry.json", "registry.unfinished", "digits-linear.safetensors", "digits-linear.csv")
    for name in names:
        (folder / name).symlink_to(victim if name != "registry.json" else tmp_path / "nowhere")
    train_digits(folder, recipe=TINY, only="linear")
    assert victim.read_bytes() == b"precious" and not (tmp_path / "nowhere").exists()
    assert not (folder / "registry.json").is_symlink() and models.names(folder=folder) == ("digits/linear",)
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "other"
    other.mkdir()
    for name, call in (("checkpoints", lambda: train_digits(other)), ("chunks", lambda: table("cifar10", other))):
        (other / name).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match=f"{name} must be a folder, got a link to .*elsewhere; delete it"):
            call()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train_digits(folder, recipe=TINY, only="linear")
    return folder


@pytest.fixture
def damaged(trained, tmp_path):
    """A copy of a training folder."""
    return shutil.copytree(trained, tmp_path / "copy")


def test_half_a_log_line_stops_nothing(damaged, trained):
    log = damaged / "digits-linear.csv"
    log.write_bytes(log.read_bytes()[:-9])
    train_digits(damaged, recipe=TINY, only="linear")
    assert log.read_bytes() == (trained / log.name).read_bytes()


def test_a_damaged_checkpoint_is_named_and_its_remedy_works(damaged, trained):
    checkpoint = damaged / "checkpoints" / "digits-linear.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(_files.Damaged, match=f"{checkpoint} is damaged.*; delete it and give the same command again"):
        train_digits(damaged, recipe=TINY, only="linear")
    checkpoint.unlink()
    train_digits(damaged, recipe=TINY, only="linear")
    name = "digits-linear.safetensors"
    assert (damaged / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.parametrize("part", ["log", "layer/weight", "random", "done", "seconds"])
def test_a_checkpoint_of_other_layers_is_named(part, tmp_path):
    def run() -> None:
        layer = torch.nn.Linear(2, 1)
        Run(tmp_path, "a", 0, TINY, False).loop(lambda _: {}, 2, {"layer": layer}, {})

    run()
    path = tmp_path / "checkpoints" / "a.safetensors"
    tensors, about = _files.read_tensors(path, "")
    about = {key: "[" if key == part else value for key, value in about.items()}
    wrong = torch.tensor(-(2**40)) if part == "done" else torch.ones(3)
    tensors = {key: wrong if key == part else value for key, value in tensors.items()}
    _files.write_tensors(path, tensors, about)  # with the right digest
    with pytest.raises(_files.Damaged, match="a.safetensors is no checkpoint of this network.*; delete it"):
        run()


@pytest.mark.parametrize(
    "about", [{}, {"plan": "{", "origin": "{}"}, {"plan": "{}", "origin": "{}"}, {"plan": None, "origin": "[]"}]
)
def test_tensors_that_are_no_chunk_are_named(about, tmp_path):
    job = Job("a", lambda job, index: {}, {"seed": 0}, 2, 2, Store(tmp_path))
    about = {key: json.dumps(job.plan) if value is None else value for key, value in about.items()}
    _files.write_tensors(tmp_path / job.file(0), {"r": torch.ones(2)}, about | {"more": ""})
    with pytest.raises(
        _files.Damaged, match="00000000-2.safetensors is (no chunk|a chunk of another plan).*; delete it"
    ):
        job.read(0)


def test_tensors_that_end_behind_their_file_are_named(tmp_path):
    path = tmp_path / "state.safetensors"
    _files.write_tensors(path, {"w": torch.ones(3)}, {})
    header, data = _files._split(path.read_bytes())
    header["w"]["data_offsets"] = [0, 13]
    del header["__metadata__"]["digest"]
    header["__metadata__"]["digest"] = _files._digest(header, data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    with pytest.raises(_files.Damaged, match="state.safetensors is damaged, it cannot be read"):
        _files.read_tensors(path, "")


def test_the_command_that_a_damaged_network_names_repairs_it(damaged):
    path = damaged / "digits-linear.safetensors"
    path.write_bytes(flipped(path.read_bytes(), 200))
    with pytest.raises(_files.Damaged, match="train digits --seed 0 --only linear"):
        models.load("digits/linear", folder=damaged)
    train_digits(damaged, recipe=TINY, only="linear")
    assert models.load("digits/linear", folder=damaged)


@pytest.mark.parametrize("fault", ["flipped", "missing", "whole"])
def test_a_damaged_network_of_photographs_is_not_finished(fault, damaged, tmp_path):
    run = Run(damaged, "digits-linear", 0, TINY, False, data=json.dumps(models.card("digits/linear")["data"]))
    path = damaged / "digits-linear.safetensors"
    if fault == "missing":
        path.unlink()
    elif fault == "flipped":
        path.write_bytes(flipped(path.read_bytes(), 200))
    assert images._finished(run, "digits/linear") == (fault == "whole")


def nothing(f, x, y, bounds):
    return x


@pytest.fixture
def race(monkeypatch):
    """A race with an attack that does nothing; the images that it was shown, and what it says of its commit."""
    shown = []
    monkeypatch.setattr(arms_race, "all_attacks", lambda **_: {"one": Attack(nothing, False)})
    outcomes = arms_race._outcomes
    monkeypatch.setattr(arms_race, "_outcomes", lambda *given: shown.append(len(given[2])) or outcomes(*given))
    return shown


def test_the_arms_race_goes_on_and_keeps_every_chunks_commit(race, tmp_path, monkeypatch):
    options = dict(chunk=2, store=tmp_path / "r.chunks")
    monkeypatch.setattr(_jobs, "_commit", lambda: "before")
    arms_race.run(images=5, **options)
    assert sorted(race) == [1, 2, 2]
    monkeypatch.setattr(_jobs, "_commit", lambda: "after")
    found = arms_race.run(images=6, **options)
    assert sorted(race) == [1, 2, 2, 2]  # the third chunk was not whole
    assert found.provenance["commit"] == "before, after"
    again = arms_race.run(images=6, chunk=2)
    assert torch.equal(found.accuracy, again.accuracy) and torch.equal(found.clean, again.clean)
    shown = len(race)
    monkeypatch.setattr(companion, "__version__", "9")
    assert arms_race.run(images=6, **options).provenance["versions"]["companion"] == "9"
    arms_race.run(images=6, seed=1, **options)
    assert len(race) == shown + 6  # what another version or seed measured counts for nothing
    for path in (tmp_path / "r.chunks").glob("*/00000001-2.safetensors"):
        path.write_bytes(flipped(path.read_bytes(), -9 % path.stat().st_size))
    with pytest.raises(
        _files.Damaged, match="00000001-2.safetensors is damaged.*; delete it and give the same command"
    ):
        arms_race.run(images=6, **options)


def test_the_arms_race_needs_no_scikit_learn(race, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert arms_race.run(images=1).clean.shape == (6,)


def test_stored_results_are_refused_once_changed(tmp_path):
    text = (arms_race.RESULTS / "arms_race-digits.json").read_text(encoding="utf-8")
    path = tmp_path / "r.json"
    path.write_text(text.replace("0.93", "0.92", 1), encoding="utf-8")
    with pytest.raises(_files.Damaged, match="r.json is damaged or was edited.*make it again"):
        arms_race.load(path)
    path.write_text(text[:-50], encoding="utf-8")
    with pytest.raises(_files.Damaged, match="r.json is damaged, it cannot be read"):
        arms_race.load(path)
    for name in ("table.csv", "radii.safetensors", "provenance.json"):
        folder = shutil.copytree(arms_race.RESULTS / "cifar10", tmp_path / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"7", b"8", 1))
        with pytest.raises(_files.Damaged, match=f"{name}.*; reinstall the package"):
            stored("cifar10", folder=folder)


def test_the_table_keeps_every_chunks_commit(tmp_path, monkeypatch):
    def invented(job, index) -> dict:
        world = columns(10)
        shared = {key: value for key, value in world.items() if not key.startswith("f/")}
        for kind in TABLES["cifar10"]:
            shared |= {f"{kind}/{key[2:]}": value.clone() for key, value in world.items() if key.startswith("f/")}
        return shared | {"seconds": torch.ones(1)}

    module = sys.modules["companion.experiments.table"]  # the function of the same name hides it
    monkeypatch.setattr(module, "measure", invented)
    monkeypatch.setattr(module, "certified_lipschitz", lambda generator, shape: Lipschitz(1.0))
    for commit, samples in (("before", 10), ("after", 20), ("later", 20)):
        monkeypatch.setattr(_jobs, "_commit", lambda commit=commit: commit)
        table("cifar10", tmp_path, samples=samples, chunk=10, device="cpu")
    assert stored("cifar10", folder=tmp_path).provenance["commit"] == "before, after"
    assert "commit before, after, torch" in (tmp_path / "table.md").read_text(encoding="utf-8")


def shell(monkeypatch, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["companion", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        from_the_shell()
    assert end.value.code not in (None, 0)
    return str(end.value.code)


def test_errors_of_the_user_are_one_line(monkeypatch, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "registry.json").write_text("{", encoding="utf-8")
    nowhere = tmp_path / "nowhere"
    for arguments, message in [
        (["arms-race", "digits", "--images", 0, "--out", tmp_path / "r"], "images must be an integer of at least 1"),
        (["arms-race", "digits", "--out", tmp_path], "out must be a file to write, got the folder"),
        (["arms-race", "digits", "--out", "/proc/nowhere/r.json"], "could not write /proc/nowhere"),
        (["table", "cifar10", "--out", tmp_path / "t", "--samples", 0], "samples must be an integer of at least 1"),
        (["table", "cifar10", "--out", tmp_path / "t", "--weights", folder], "registry.json is damaged"),
        (["table", "cifar10", "--out", tmp_path / "t", "--device", "gpu9"], "computes in float32 on, got 'gpu9'"),
        (["train", "cifar10", "--out", tmp_path / "t", "--root", nowhere], "root must be a folder that exists"),
        (["train", "cifar10", "--out", tmp_path / "t", "--device", "gpu9"], "computes in float32 on, got 'gpu9'"),
    ]:
        said = shell(monkeypatch, *arguments)
        assert message in said and "\n" not in said and said.startswith(f"python -m companion {arguments[0]}: ")
    for place in (1, 4):
        wanted = ["companion", "arms-race", "digits", f"--out={tmp_path}"]
        wanted.insert(place, "--traceback")
        monkeypatch.setattr(sys, "argv", wanted)
        with pytest.raises(ValueError, match="out must be a file to write"):
            from_the_shell()


def test_the_version_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["companion", "--version"])
    with pytest.raises(SystemExit) as end:
        from_the_shell()
    assert end.value.code == 0 and capsys.readouterr().out == f"companion {companion.__version__}\n"


def test_interrupted_commands_end_at_once_and_say_so(tmp_path):
    weights = tmp_path / "weights"
    write_networks(weights)
    command = [sys.executable, "-m", "companion", "table", "cifar10", f"--weights={weights}"]
    command += [
        f"--out={tmp_path / 'out'}",
        "--steps=1000000",
        "--samples=8",
        "--chunk=4",
        "--workers=2",
        "--device=cpu",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that a shell runs in the background do not hear Ctrl-C, and what they start would not either.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline, children = time.monotonic() + 120, []
    try:
        while sum(child.cpu_times().user > 2 for child in children) < 2:  # both at work
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
            children = psutil.Process(process.pid).children(recursive=True)
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all of them
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - began < 5
    assert process.returncode == 130 and "python -m companion table: stopped; " in said and "Traceback" not in said
    assert not psutil.wait_procs(children, timeout=2)[1], "workers were left behind"


def test_five_of_six_files_of_cifar10_name_the_sixth(tmp_path):
    for name in data.CIFAR10_FILES[1:]:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="holds 5 of the 6 files .* missing: data_batch_1.bin; unpack"):
        data.cifar10(root=tmp_path)


def test_an_unwritable_cache_is_named(monkeypatch, read_only):
    monkeypatch.delenv(data.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(read_only))
    message = as_nobody(data.cifar10)
    assert "could not write" in message and "set XDG_CACHE_HOME" in message and data.VARIABLE in message


def test_weights_of_something_else_are_named(tmp_path):
    (tmp_path / "w").write_bytes(b"nothing")
    registry_of(tmp_path, "w", b"nothing")
    with pytest.raises(_files.Damaged, match="are no safetensors file"):
        models.load("digits/linear", folder=tmp_path)
    content = save({"w": torch.ones(1)})
    (tmp_path / "w").write_bytes(content)
    registry_of(tmp_path, "w", content)
    with pytest.raises(_files.Damaged, match="the architecture of 'digits/linear' does not fit its weights"):
        models.load("digits/linear", folder=tmp_path)
