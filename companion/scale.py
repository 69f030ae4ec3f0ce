"""Very many generated images, a chunk at a time: in this process, or on a Dask cluster.

`radii` measures the three radii of each image. `census` counts labels and local moduli only, which is all that
Theorem 1 needs, and cheaper. Both cut the latents into chunks. With a `store`, a chunk that is
finished is never measured again: a run that was killed goes on, another one that asks for more samples begins with what
is there, and several may share a store.

With a `client` of `dask.distributed` (extra `cluster`) the workers measure. Networks are sent to them, so that they
need only the same versions of this package and of torch, and whatever code the networks are made of.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from companion import _files, _jobs, _networks, robustness
from companion import _validation as check
from companion._calls import Composed, guarded
from companion._jobs import Job
from companion._store import Store
from companion._types import Model, Numbers
from companion.smoothness import local_modulus
from companion.vulnerability import _fraction_of_counts, _smallest_level

if TYPE_CHECKING:
    from distributed import Client

# Local moduli are counted by size in steps of one per cent, each rounded up.
STEP = 1.01
_ENDS = 2**17  # steps from 1 that lead to 0 and to infinity in float64
_AT_A_TIME = 4096  # images that are only classified


class Sample(NamedTuple):
    """What `radii` measured of n images; row k is latent k % chunk of `latents(seed, k // chunk, ...)`.

    Attributes:
        label: (n,) the classifier's labels.
        latent: (n,) r_Z, latent units; `inf` where none was found, as for the others.
        in_distribution: (n,) r_in, image units.
        unconstrained: (n,) r_unc, image units.
        provenance: how this came about.
    """

    label: Tensor
    latent: Tensor
    in_distribution: Tensor
    unconstrained: Tensor
    provenance: dict[str, Any]


class Census(NamedTuple):
    """What `census` counted of n latents.

    Attributes:
        class_counts: (K,) int64, how many have each label.
        t: (T,) float64, latent radii.
        levels: (B,) float64, increasing sizes of local moduli, in image units.
        moduli: (T, B) int64, how many local moduli ω_z(t) are of each size, rounded up to it by at most 1 %.
        provenance: how this came about.
    """

    class_counts: Tensor
    t: Tensor
    levels: Tensor
    moduli: Tensor
    provenance: dict[str, Any]

    def vulnerable_fraction(self, eta: Numbers, *, confidence: float = 0.95) -> Tensor:
        """`vulnerability.measured_vulnerable_fraction` of these counts; a modulus that was rounded up lowers it."""
        eta = check.tensor("eta", eta, minimum=0.0, finite=False)
        within = torch.cat([self.moduli.new_zeros(len(self.t), 1), self.moduli.cumsum(1)], 1)
        place = torch.searchsorted(self.levels, eta.detach().to("cpu", torch.float64).reshape(-1), right=True)
        exceeding, samples = within[:, -1:] - within[:, place], int(self.class_counts.sum())
        found = _fraction_of_counts(
            exceeding, samples, self.t, class_counts=self.class_counts, confidence=confidence
        )
        return found.reshape(eta.shape).to(eta)

    def robustness_quantile(self, q: Numbers, *, confidence: float = 0.95) -> Tensor:
        """`vulnerability.measured_robustness_quantile` of these counts: at most 1 % more than of the moduli."""
        levels = self.levels[self.levels.isfinite()]
        return _smallest_level(check.fraction("q", q), levels, self.vulnerable_fraction(levels, confidence=confidence))


def radii(
    generator: Model,
    classifier: Model,
    samples: int,
    *,
    steps: int = 100,
    metric_steps: int = 60,
    max_latent_norm: float | None = None,
    seed: int = 0,
    chunk: int = 50,
    store: Path | str | None = None,
    key: str = "",
    client: Client | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Sample:
    """The three radii of `samples` generated images, as `robustness.radii` measures them.

    Args:
        generator: the generator g.
        classifier: the classifier f.
        samples: how many latents are drawn from N(0, I), at least 1.
        steps, metric_steps, max_latent_norm: as of `robustness.radii`.
        seed: seeds the latents; 0 to 2⁶⁴ − 1.
        chunk: images at a time, and rows a file in the store.
        store: folder or fsspec address (s3://bucket/folder) where finished chunks are kept; by default nothing is. What
            is there is known by the networks' classes, printed forms, state dicts and attributes, and by all options
            above.
        key: whatever else the networks depend on, such as a version of their code. With a store, networks that are no
            `nn.Module` need one: nothing else tells them apart.
        client: a Dask client, whose workers measure; by default this process does.
        device: where modules are moved to, as copies; by default a GPU wherever a worker has one, and without a client
            where the generator is.
        progress: show a bar that counts images.

    Returns:
        A `Sample` of n = `samples` rows, on the CPU: the same with and without a client, to the bit where processor and
        number of threads are the same.

    Raises:
        ValueError: as `robustness.radii`; a worker has other versions, or does not see the store.
        OSError: the store cannot be written to, the scheduler was lost, or workers were ended again and again.
        RuntimeError: a chunk in the store is not as it was written.
    """
    options = dict(steps=check.integer("steps", steps, minimum=1))
    options |= dict(metric_steps=check.integer("metric_steps", metric_steps, minimum=0))
    limit = None if max_latent_norm is None else check.positive("max_latent_norm", max_latent_norm)
    job = _job(_radii, generator, classifier, samples, chunk, seed, store, key, client, device)
    job = job.extended(options | {"max_latent_norm": limit})
    columns, made = _jobs.columns(_jobs.run(job, client=client, progress=progress))
    return Sample(**columns, provenance=job.plan | {"samples": job.samples} | made)


def census(
    generator: Model,
    classifier: Model,
    samples: int,
    *,
    t: Numbers = (),
    steps: int = 10,
    restarts: int = 2,
    seed: int = 0,
    chunk: int = 10_000,
    store: Path | str | None = None,
    key: str = "",
    client: Client | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Census:
    """Count labels and local moduli of `samples` latents: what Theorem 1 needs, in memory that does not grow with them.

    Args:
        generator: the generator g.
        classifier: the classifier f, K ≥ 2 classes.
        samples: how many latents are drawn from N(0, I), at least 1.
        t: increasing latent radii of the local moduli, fixed beforehand; none to count labels alone.
        steps, restarts: of the ascent, as of `smoothness.local_modulus`; moduli are lower estimates.
        seed, chunk, store, key, client, device, progress: as of `radii`.

    Returns:
        A `Census`, the same whichever worker counted what.

    Raises:
        ValueError, OSError, RuntimeError: as `radii`, and for `t`.
    """
    options = dict(steps=check.integer("steps", steps, minimum=1))
    options |= dict(restarts=check.integer("restarts", restarts, minimum=1))
    reaches = check.tensor("t", t, minimum=0.0).detach().to("cpu", torch.float64)
    if reaches.ndim != 1 or (reaches.diff() <= 0).any():
        raise ValueError(f"t must have shape (T,) and increase, got {reaches.tolist()}")
    job = _job(_census, generator, classifier, samples, chunk, seed, store, key, client, device)
    job = job.extended(options | {"t": reaches.tolist()})
    places, counts = torch.empty(0, 2, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    labels, origins = torch.zeros((), dtype=torch.int64), []
    for _, found, origin in _jobs.run(job, client=client, progress=progress):
        places, counts = _summed(torch.cat([places, found["places"]]), torch.cat([counts, found["counts"]]))
        labels = labels + found["class_counts"]
        if origin not in origins:
            origins.append(origin)
    sizes, place = places[:, 1].unique(return_inverse=True)
    moduli = torch.zeros(len(reaches), len(sizes), dtype=torch.int64)
    moduli[places[:, 0], place] = counts
    provenance = job.plan | {"samples": job.samples} | _jobs.origins(origins)
    return Census(labels, reaches, _level(sizes), moduli, provenance)


def latents(seed: int, index: int, rows: int, latent_dim: int) -> Tensor:
    """The latents of a chunk: (rows, latent_dim) float64, from N(0, I).

    Every chunk has a stream of its own, of a generator that counts: none needs those before it.

    Source: J. K. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, 2011 (Philox).
    """
    draws = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    return torch.from_numpy(draws.standard_normal((rows, latent_dim)))


def quantile(values: Tensor, level: float) -> float:
    """The smallest of `values` that at least the fraction `level` of them does not exceed; values may be `inf`."""
    return values.double().sort().values[math.ceil(level * len(values)) - 1].item()


def save(found: Sample, path: Path | str) -> None:
    """Write a `Sample` as safetensors with a digest."""
    columns = found._asdict()
    about = json.dumps(columns.pop("provenance"), sort_keys=True)
    _files.write_tensors(Path(path), columns, {"provenance": about})


def load(path: Path | str) -> Sample:
    """The `Sample` that `save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: it is not as it was written.
    """
    columns, about = _files.read_tensors(Path(path), "measure it again: what is in the store is kept")
    return Sample(**columns, provenance=json.loads(about["provenance"]))


def _job(
    measure: Callable[[Job, int], dict[str, Tensor]],
    generator: Model,
    classifier: Model,
    samples: int,
    chunk: int,
    seed: int,
    store: Path | str | None,
    key: str,
    client: Client | None,
    device: str | None,
) -> Job:
    samples, chunk = check.integer("samples", samples, minimum=1), check.integer("chunk", chunk, minimum=1)
    seed = check.integer("seed", seed, minimum=0)
    if seed >= 2**64:
        raise ValueError(f"seed must be less than 2**64, got {seed!r}")
    check.latent_dim(generator)
    networks = {"generator": generator, "classifier": classifier}
    for name, network in networks.items():
        check.network(name, network)
        if store is not None and not key and not isinstance(network, nn.Module):
            raise ValueError(
                f"key must name what is no nn.Module, so that the store can tell it apart; got {name} {network!r}"
            )
    name, digests = measure.__name__.strip("_"), {name: _networks.digest(network) for name, network in networks.items()}
    plan = {"measure": name, "seed": seed, "key": key, "weights": digests}
    here = "cpu"  # where networks are sent from
    if client is None:
        here = device = device or str(_like(generator).device)
    given = _networks.placed(generator, here), _networks.placed(classifier, here)
    where = None if store is None else Store(store)
    return Job(name, measure, plan, samples, chunk, where, device, given=given)


def _radii(job: Job, index: int) -> dict[str, Tensor]:
    generator, classifier, z = _inputs(job, index)
    options = {name: job.plan[name] for name in ("steps", "metric_steps", "max_latent_norm", "seed")}
    found = robustness.radii(generator, classifier, z, **options)
    own = {name: getattr(found, name) for name in ("latent", "in_distribution", "unconstrained")}
    return {"label": _logits(generator, classifier, z).argmax(1)} | own


def _census(job: Job, index: int) -> dict[str, Tensor]:
    generator, classifier, z = _inputs(job, index)
    logits = _logits(generator, classifier, z)
    counts = torch.bincount(logits.argmax(1), minlength=logits.shape[1])
    t, options = job.plan["t"], {name: job.plan[name] for name in ("steps", "restarts")}
    moduli = local_modulus(generator, z, t, **options) if t else z.new_zeros(len(z), 0)
    which = torch.arange(len(t)).expand(len(z), -1)
    places = torch.stack([which, _size(moduli.cpu().double())], 2).reshape(-1, 2)
    places, each = _summed(places, torch.ones(len(places), dtype=torch.int64))
    return {"class_counts": counts, "places": places, "counts": each}


def _inputs(job: Job, index: int) -> tuple[Model, Model, Tensor]:
    device = job.place()
    generator, classifier = (network.to(device) if isinstance(network, nn.Module) else network for network in job.given)
    z = latents(job.plan["seed"], index, job.rows(index), check.latent_dim(generator))
    return generator, classifier, z.to(device, _like(generator).dtype)


def _logits(generator: Model, classifier: Model, z: Tensor) -> Tensor:
    with guarded("classifier", Composed(generator, classifier), z) as (call, z):
        rows = torch.arange(len(z), device=z.device)
        return torch.cat([call.of(z[part], part) for part in rows.split(_AT_A_TIME)])


def _size(moduli: Tensor) -> Tensor:
    """The step at which a modulus is counted: the first whose level is no smaller."""
    steps = (moduli.log() / math.log(STEP)).ceil().clamp(-_ENDS, _ENDS)
    # Neither logarithm nor power is exact.
    steps = torch.where(_level(steps - 1) >= moduli, steps - 1, steps)
    return torch.where(_level(steps) < moduli, steps + 1, steps).to(torch.int64)


def _level(steps: Tensor) -> Tensor:
    """The size that a step stands for."""
    return torch.as_tensor(STEP, dtype=torch.float64) ** steps


def _summed(places: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Equal rows of `places` put together, their counts added."""
    places, which = places.unique(dim=0, return_inverse=True)
    return places, torch.zeros(len(places), dtype=torch.int64).index_add_(0, which, counts)


def _like(generator: Model) -> Tensor:
    """A tensor of the generator's precision and device; a float64 number on the CPU where it has none."""
    floating = (value for value in _networks.tensors(generator) if value.is_floating_point())
    return next(floating, torch.zeros((), dtype=torch.float64))
