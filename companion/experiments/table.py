"""One table: every classifier's three radii on generated images, beside what Theorem 1 allows any classifier.

The work is cut into chunks of latents (`companion._jobs`). Each is seeded by itself and written when it is done, so a
killed run goes on with those that are missing and ends with the same files, here or on a cluster.
"""

from __future__ import annotations

import hashlib
import json
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save
from torch import Tensor

from companion import _files, _jobs, _registry, models, robustness
from companion import _validation as check
from companion import data as sets
from companion._jobs import Job
from companion._store import Store
from companion.certificates import certified_lipschitz
from companion.experiments.report import COUNTED, REACHES, as_csv, as_markdown, summarise
from companion.models import quality
from companion.smoothness import local_modulus

if TYPE_CHECKING:
    from distributed import Client

TABLES = {
    "cifar10": {
        "vgg": "VGG",
        "wide-resnet": "Wide ResNet",
        "wide-resnet-adversarial": "Wide ResNet, adversarially trained",
    },
    "svhn": {"lenet": "2-layer LeNet", "resnet-18": "ResNet-18", "resnet-101": "ResNet-101"},
}


def table(
    data: str,
    out: Path | str,
    *,
    weights: Path | str = models.WEIGHTS,
    samples: int = 2_000,
    steps: int = 50,
    metric_steps: int = 8,
    chunk: int = 50,
    seed: int = 0,
    device: str | None = None,
    store: Path | str | None = None,
    client: Client | None = None,
    root: Path | str | None = None,
    progress: bool = False,
) -> list[dict]:
    """Measure one of the paper's tables and write it.

    Into `out` go `table.md`, `table.csv`, `radii.safetensors` (everything that was measured, row by row, with the
    provenance in its metadata), `provenance.json` (the same, and the times) and, unless there is a `store`, `chunks/`,
    which may be deleted.

    Args:
        data: "cifar10" or "svhn".
        out: folder to write into; made if missing. Nothing is written anywhere else.
        weights: folder with `registry.json` and the networks, as `train` leaves it (default: the shipped ones).
        samples: number of generated images.
        steps: gradients per image for each of the attacks on f∘g and on f.
        metric_steps: steps along the data manifold per image; each costs a Jacobian of the generator.
        chunk: images at a time.
        seed: seeds the latents; 0 to 4095.
        device: where to measure, e.g. "cuda"; by default a GPU wherever the process that measures has one.
        store: folder or fsspec address (s3://bucket/folder) where chunks are kept, which runs and machines may share;
            by default `out`/chunks.
        client: a Dask client (`dask.distributed.Client`), whose workers measure; by default this process does. They
            need the same versions and, in the same place, `weights` and the store.
        root: folder with the data set, to measure the error rates again; by default they are the registry's.
        progress: show a bar.
    Returns:
        The rows of the table, as `summarise` returns them.
    Raises:
        ValueError: unknown `data`; a network that is not in `weights`; a worker with other versions or weights, or that
            does not see the store. Damaged weights and, with `root`, missing data are reported as by `models.load` and
            `companion.data`.
        OSError: `out` or the store cannot be written to (found out before the work), the scheduler was lost, or workers
            were ended again and again.
        RuntimeError: a chunk is not as it was written.
    """
    if data not in TABLES:
        raise ValueError(f"data must be one of {', '.join(TABLES)}, got {data!r}")
    counts = dict(samples=samples, steps=steps, chunk=chunk)
    counts = {name: check.integer(name, value, minimum=1) for name, value in counts.items()}
    counts |= {"metric_steps": check.integer("metric_steps", metric_steps, minimum=0)}
    counts |= {"seed": check.integer("seed", seed, minimum=0)}
    if seed >= 2**12:
        raise ValueError(f"seed must be less than {2**12}, got {seed!r}")
    out, weights = Path(out), Path(weights)
    cards = _cards(data, weights)
    hashes = {name: card["sha256"] for name, card in cards.items()}
    samples, chunk = counts.pop("samples"), counts.pop("chunk")
    plan = {"measure": "table", "data": data, "weights": hashes} | counts
    _files.ready(out, *(["chunks"] if store is None else []))
    where = Store(out / "chunks" if store is None else store)
    job = Job(f"table {data}", measure, plan, samples, chunk, where, device, weights.absolute())
    raw, made = _jobs.columns(_jobs.run(job, client=client, progress=progress))
    times = {key: raw.pop(key).item() for key in [*raw] if key.endswith("seconds")}
    provenance = job.plan | {"samples": samples} | made
    provenance["recipes"] = {name: card["recipe"] for name, card in cards.items()}
    provenance["trained_on"] = {name: card["data"] for name, card in cards.items()}
    errors = {kind: 1 - cards[f"{data}/{kind}"]["results"]["test_accuracy"] for kind in TABLES[data]}
    if root is not None:
        images = getattr(sets, data)(root=root)
        errors = {kind: _error(weights, f"{data}/{kind}", images) for kind in errors}
        provenance["error_rates_measured_on"] = images.copy
    generator = models.load(f"{data}/generator", folder=weights)
    rows = summarise(raw, TABLES[data], errors, certified_lipschitz(generator, (generator.latent_dim,)))
    files = {
        "table.csv": as_csv(rows, TABLES[data]).encode(),
        "table.md": as_markdown(rows, TABLES[data], provenance).encode(),
        "radii.safetensors": save(raw, {"provenance": json.dumps(provenance, sort_keys=True)}),
    }
    for name, content in files.items():
        _files.write(out / name, content)
    provenance["seconds_per_1000_images"] = {key: 1000 * value / samples for key, value in times.items()}
    provenance["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    _files.write_json(out / "provenance.json", _files.seal(provenance), indent=2)
    return rows


def measure(job: Job, index: int) -> dict[str, Tensor]:
    """Everything about one chunk of latents: shared columns, and for every classifier its own under `kind/`."""
    plan, n, device = job.plan, job.rows(index), job.place()
    generator, classifiers = _networks(plan["data"], job.weights, device)
    # The generator takes 32 bits: twelve for the seed, twenty for the chunk.
    draws = torch.Generator().manual_seed((plan["seed"] << 20) + index)
    z, others = torch.randn((1 + COUNTED) * n, generator.latent_dim, generator=draws).to(device).split([n, COUNTED * n])
    options = dict(steps=plan["steps"], chunk_size=plan["chunk"], return_witness=True)
    with torch.no_grad():
        x, x_others = generator(z), torch.cat([generator(part) for part in others.split(250)])
    began = time.perf_counter()
    moduli = local_modulus(generator, z, list(REACHES), steps=10, restarts=2)
    columns = {"latent_norm": z.norm(dim=1), "image_norm": x.flatten(1).norm(dim=1), "local_moduli": moduli}
    columns["seconds"] = torch.tensor([time.perf_counter() - began])
    for kind, classifier in classifiers.items():
        times = [time.perf_counter()]
        latent, z_near = robustness.latent_radius(generator, classifier, z, **options)
        times.append(time.perf_counter())
        along = dict(start=z_near, metric_steps=plan["metric_steps"]) | options
        inside, z_inside = robustness.in_distribution_radius(generator, classifier, z, **along)
        times.append(time.perf_counter())
        # Each witness is one of the next problem too. Its search starts there, but may refuse one for rounding.
        at_latent = torch.where(latent.isfinite(), _distance(generator, z_near, x), torch.inf)
        z_inside = torch.where((at_latent < inside)[:, None], z_near, z_inside)
        inside = inside.minimum(at_latent)
        with torch.no_grad():
            x_inside = generator(z_inside)
        free = robustness.unconstrained_radius(classifier, x, start=x_inside, **options)[0].minimum(inside)
        times.append(time.perf_counter())
        with torch.no_grad():
            logits = torch.cat([classifier(part) for part in torch.cat([x, x_others]).split(250)])
        own = {
            "latent": latent,
            "in_distribution": inside,
            "unconstrained": free,
            "image_distance_at_latent_witness": at_latent,
            "in_distribution_witness_norm": z_inside.norm(dim=1),
            "label": logits[:n].argmax(1),
            "counts": torch.bincount(logits.argmax(1), minlength=logits.shape[1])[None],
        }
        columns |= {f"{kind}/{key}": value for key, value in own.items()}
        for key, start, end in zip(("latent", "in_distribution", "unconstrained"), times, times[1:], strict=False):
            columns[f"{kind}/{key}_seconds"] = torch.tensor([end - start])
    return columns


def _cards(data: str, weights: Path) -> dict[str, dict]:
    names = [f"{data}/{kind}" for kind in ("generator", *TABLES[data])]
    there = _registry.trained(weights)
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(
            f"weights must be a folder with {', '.join(missing)}, got {str(weights)!r}; make them with: python -m "
            f"companion train {data} --out DIR, then say: table {data} --weights DIR"
        )
    return {name: models.card(name, folder=weights) for name in names}


@cache
def _networks(data: str, weights: Path, device: torch.device):
    generator = models.load(f"{data}/generator", folder=weights).to(device)
    return generator, {kind: models.load(f"{data}/{kind}", folder=weights).to(device) for kind in TABLES[data]}


def _error(weights: Path, name: str, images: sets.Images) -> float:
    return 1 - quality.accuracy(models.load(name, folder=weights), images.test_images / 255, images.test_labels)


@torch.no_grad()
def _distance(generator, z: Tensor, x: Tensor) -> Tensor:
    """‖g(z) − x‖ for every row."""
    return (generator(z) - x).flatten(1).norm(dim=1)
