"""A training run that may be killed at any moment: its random numbers, its log, its checkpoint, its result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from companion import _files, _registry


class Run:
    """One network's training run: its random numbers, its log and its checkpoint."""

    def __init__(self, out: Path, name: str, seed: int, recipe, progress: bool, **settings: str) -> None:
        """`settings`: whatever else a run must have been begun with to be gone on with."""
        self.out, self.name, self.seed, self.recipe, self.progress = out, name, seed, recipe, progress
        self.settings = {"seed": str(seed), "recipe": json.dumps(asdict(recipe))} | settings
        self.random = torch.Generator().manual_seed(seed)
        self.seconds = 0.0
        self.rows: list[dict] = []  # what the log says
        self.log = out / f"{name}.csv"
        self.checkpoint = out / "checkpoints" / f"{name}.safetensors"

    def part(self, name: str) -> Run:
        """A run of its own for a network that this one needs on its way."""
        other = Run(self.out, f"{self.name}-{name}", self.seed, self.recipe, self.progress)
        other.settings = self.settings
        return other

    @contextmanager
    def seeded(self, seed: int | None = None) -> Iterator[None]:
        """Layers are initialised from the run's seed, or `seed`, inside; the global random state is put back after."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed if seed is None else seed)
            yield

    def loop(
        self,
        step: Callable[[int], dict],
        steps: int,
        parts: dict[str, nn.Module],
        optimizers: dict[str, Optimizer],
    ) -> None:
        """Call `step(index)` for every index not done yet; a checkpoint every so often and at the end."""
        done = self._restore(parts, optimizers)
        if done:
            self._write_log()
        with tqdm(total=steps, initial=done, desc=self.name, disable=not self.progress) as bar:
            began = time.monotonic() - self.seconds
            for index in range(done, steps):
                row = step(index)
                bar.update()
                if (index + 1) % self.recipe.checkpoint_every == 0 or index + 1 == steps:
                    row = {key: float(value) for key, value in row.items()}
                    bar.set_postfix(row)
                    self.seconds = time.monotonic() - began
                    self.rows.append({"step": index + 1} | row)
                    self._save(index + 1, parts, optimizers)
                    self._write_log()

    def _save(self, done: int, parts: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> None:
        tensors = {"done": torch.tensor(done), "random": self.random.get_state()}
        tensors["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        for name, part in parts.items():
            tensors |= {f"{name}/{key}": value for key, value in part.state_dict().items()}
        for name, optimizer in optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}/{index}/{key}": value for key, value in moments.items() if value is not None}
        tensors = {key: value.contiguous() for key, value in tensors.items()}  # channels-last ones are not
        _files.write_tensors(self.checkpoint, tensors, self.settings | {"log": json.dumps(self.rows)})

    def _write_log(self) -> None:
        """The log is a copy, for people: what a run goes on from is in the checkpoint."""
        lines = [",".join(self.rows[0]), *(",".join(f"{value:.6g}" for value in row.values()) for row in self.rows)]
        _files.write(self.log, "".join(f"{line}\n" for line in lines).encode())

    def _restore(self, parts: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> int:
        if not self.checkpoint.exists():
            return 0
        remedy = "delete it and give the same command again: this network is then trained from its beginning"
        tensors, found = _files.read_tensors(self.checkpoint, remedy)
        log = found.pop("log", "")
        if found != self.settings:
            raise ValueError(
                f"out must not hold a run of another seed or recipe: {self.checkpoint} is of "
                f"{found}, asked for {self.settings}; delete it or choose another folder"
            )
        try:
            self.rows = json.loads(log)
            return self._take(tensors, parts, optimizers)
        except (IndexError, KeyError, RecursionError, RuntimeError, TypeError, ValueError) as error:
            raise _files.Damaged(f"{self.checkpoint} is no checkpoint of this network: {error!r}; {remedy}") from error

    def _take(self, tensors: dict[str, Tensor], parts: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> int:
        """Put the tensors of a checkpoint where they belong; how many steps were done."""
        for name, part in parts.items():
            part.load_state_dict({key: tensors[f"{name}/{key}"] for key in part.state_dict()})
        for name, optimizer in optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}/"):
                    _, index, moment = key.split("/")
                    state.setdefault(int(index), {})[moment] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        self.random.set_state(tensors["random"])
        self.seconds = tensors["seconds"].item()
        done = int(tensors["done"])
        if done < 0:
            raise ValueError(f"{done} steps were done")
        return done


def publish(
    run: Run, name: str, network: nn.Module, architecture: dict, results: dict, *, command: str, data: str | dict
) -> dict:
    """Write the weights in half precision and the registry entry; return the whole registry."""
    entry = {
        "architecture": architecture,
        "recipe": command,
        "settings": asdict(run.recipe),
        "seed": run.seed,
        "torch": torch.__version__,
        "data": data,
        "results": results,
    }
    if run.rows:  # a substitute's training has no log
        entry["log"] = {"file": run.log.name, "sha256": hashlib.sha256(run.log.read_bytes()).hexdigest()}
    weights = {key: _half(value) for key, value in network.state_dict().items()}
    return _registry.add(run.out, name, f"{run.name}.safetensors", weights, entry)


def as_shipped(network: nn.Sequential) -> nn.Sequential:
    """The network with weights rounded to fp16 and frozen: what is measured is what will be loaded."""
    network.load_state_dict({key: _half(value) for key, value in network.state_dict().items()})
    return network.eval().requires_grad_(False)


def _half(value: Tensor) -> Tensor:
    """Half precision for weights and statistics; counts stay whole."""
    return value.half() if value.is_floating_point() else value
