"""One table: every classifier's three radii on generated images, beside what Theorem 1 allows any classifier.

The work is cut into chunks of latents. A chunk is seeded by itself and written when it is done, so a killed run goes on
with the chunks that are missing and ends with the same files, and chunks may be measured by several processes at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from companion import _files, _registry, models, robustness
from companion import _validation as check
from companion import data as sets
from companion._resumable import Chunks, origin, origins
from companion.certificates import certified_lipschitz
from companion.experiments.report import COUNTED, REACHES, as_csv, as_markdown, summarise
from companion.models import quality
from companion.smoothness import local_modulus

TABLES = {
    "cifar10": {
        "vgg": "VGG",
        "wide-resnet": "Wide ResNet",
        "wide-resnet-adversarial": "Wide ResNet, adversarially trained",
    },
    "svhn": {"lenet": "2-layer LeNet", "resnet-18": "ResNet-18", "resnet-101": "ResNet-101"},
}


@dataclass(frozen=True)
class Plan:
    """What the numbers of a table depend on.

    Chunks of another plan are refused. Only `samples` may differ: whoever asks for more goes on where fewer ended.
    """

    data: str
    samples: int
    seed: int
    chunk: int
    steps: int
    metric_steps: int
    device: str
    weights: dict
    torch: str


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
    workers: int = 1,
    root: Path | str | None = None,
    progress: bool = False,
) -> list[dict]:
    """Measure one of the paper's tables and write it.

    Into `out` go `table.md`, `table.csv`, `radii.safetensors` (everything that was measured, row by row, with the
    provenance in its metadata), `provenance.json` (the same, and the times) and `chunks/`, which may be deleted.

    Args:
        data: "cifar10" or "svhn".
        out: folder to write into; made if missing. Nothing is written anywhere else.
        weights: folder with `registry.json` and the networks, as `train` leaves it (default: the shipped ones).
        samples: number of generated images.
        steps: gradients per image for each of the attacks on f∘g and on f.
        metric_steps: steps along the data manifold per image; each costs a Jacobian of the generator.
        chunk: images at a time.
        seed: seeds the latents; 0 to 4095.
        device: where to measure, e.g. "cuda"; by default a GPU if there is one.
        workers: processes that measure chunks; with more than one they share out the processor's threads, and radii
            may differ in the last digits from those of another number of workers.
        root: folder with the data set, to measure the error rates again; by default they are the registry's.
        progress: show a bar.
    Returns:
        The rows of the table, as `summarise` returns them.
    Raises:
        ValueError: unknown `data`; a network that is not in `weights`; `out` holds chunks of another plan (more
            `samples` are welcome: the chunks that are there count). Damaged weights and, with `root`, missing data are
            reported as by `models.load` and `companion.data`.
        OSError: `out` cannot be written to (found out before the work), or a worker was ended from outside.
        RuntimeError: a chunk in `out` is not as it was written.
    """
    if data not in TABLES:
        raise ValueError(f"data must be one of {', '.join(TABLES)}, got {data!r}")
    counts = dict(samples=samples, steps=steps, chunk=chunk)
    counts = {name: check.integer(name, value, minimum=1) for name, value in counts.items()}
    counts |= {"metric_steps": check.integer("metric_steps", metric_steps, minimum=0)}
    counts |= {"seed": check.integer("seed", seed, minimum=0)}
    if seed >= 2**12:
        raise ValueError(f"seed must be less than {2**12}, got {seed!r}")
    workers = check.integer("workers", workers, minimum=1)
    out, weights = Path(out), Path(weights)
    cards = _cards(data, weights)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    hashes = {name: card["sha256"] for name, card in cards.items()}
    plan = Plan(data=data, device=device, weights=hashes, torch=torch.__version__, **counts)
    _files.ready(out, "chunks")
    same = {name: value for name, value in asdict(plan).items() if name != "samples"}
    store = Chunks(out / "chunks", same, origin())
    indices = range(math.ceil(plan.samples / plan.chunk))
    known = {index: store.read(index, _rows(plan, index)) for index in indices}
    missing = [index for index in indices if known[index] is None]
    with closing(_measured(plan, weights, store, missing, workers)) as work:
        for _ in tqdm(work, f"table {data}", len(missing), disable=not progress):
            pass
    known |= {index: store.read(index, _rows(plan, index)) for index in missing}
    chunks = [columns for columns, _ in known.values()]
    raw = {key: torch.cat([chunk[key] for chunk in chunks]) for key in chunks[0] if not key.endswith("seconds")}
    provenance = _provenance(plan, cards, origins(made for _, made in known.values()))
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
    times = {key: sum(chunk[key].item() for chunk in chunks) for key in chunks[0] if key.endswith("seconds")}
    per_thousand = {key: 1000 * value / plan.samples for key, value in times.items()}
    provenance |= {"seconds_per_1000_images": per_thousand, "threads": torch.get_num_threads(), "workers": workers}
    provenance["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    _files.write_json(out / "provenance.json", _files.seal(provenance), indent=2)
    return rows


def measure(plan: Plan, weights: Path, index: int) -> dict[str, Tensor]:
    """Everything about one chunk of latents: shared columns, and for every classifier its own under `kind/`."""
    generator, classifiers = _networks(plan.data, weights, plan.device)
    n = _rows(plan, index)
    # The generator takes 32 bits: twelve for the seed, twenty for the chunk.
    draws = torch.Generator().manual_seed((plan.seed << 20) + index)
    z, others = (
        torch.randn((1 + COUNTED) * n, generator.latent_dim, generator=draws).to(plan.device).split([n, COUNTED * n])
    )
    options = dict(steps=plan.steps, chunk_size=plan.chunk, return_witness=True)
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
        along = dict(start=z_near, metric_steps=plan.metric_steps) | options
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
    return {key: value.detach().cpu().contiguous() for key, value in columns.items()}


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
def _networks(data: str, weights: Path, device: str):
    generator = models.load(f"{data}/generator", folder=weights).to(device)
    return generator, {kind: models.load(f"{data}/{kind}", folder=weights).to(device) for kind in TABLES[data]}


def _error(weights: Path, name: str, images: sets.Images) -> float:
    return 1 - quality.accuracy(models.load(name, folder=weights), images.test_images / 255, images.test_labels)


@torch.no_grad()
def _distance(generator, z: Tensor, x: Tensor) -> Tensor:
    """‖g(z) − x‖ for every row."""
    return (generator(z) - x).flatten(1).norm(dim=1)


def _rows(plan: Plan, index: int) -> int:
    """How many images the chunk has."""
    return min(plan.chunk, plan.samples - index * plan.chunk)


def _measure_and_write(plan: Plan, weights: Path, store: Chunks, index: int) -> None:
    store.write(index, _rows(plan, index), measure(plan, weights, index))


def _measured(plan: Plan, weights: Path, store: Chunks, indices: list[int], workers: int) -> Iterator[None]:
    """Measures the chunks, here or in other processes; yields once for each. Left early, it ends the processes."""
    if workers == 1 or len(indices) < 2:
        yield from (_measure_and_write(plan, weights, store, index) for index in indices)
        return
    others = set(multiprocessing.active_children())
    threads = max(1, (os.cpu_count() or 1) // workers)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin_worker, initargs=(threads,)) as pool:
        try:
            with _deaf_to_interrupts():
                tasks = [pool.submit(_measure_and_write, plan, weights, store, index) for index in indices]
            yield from (task.result() for task in as_completed(tasks))
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was ended from outside, as happens where memory runs out; the same command goes on "
                "with the chunks that are missing, and fewer workers need less"
            ) from error
        except BaseException:
            # Nobody waits for chunks that are half done: what is written is whole.
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C, which goes to them all: their parent ends them."""
    if threading.current_thread() is not threading.main_thread():  # no other may change what a signal does
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


def _begin_worker(threads: int) -> None:
    torch.set_num_threads(threads)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    # A killed parent would otherwise leave its workers waiting for ever.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _provenance(plan: Plan, cards: dict[str, dict], made: dict[str, str]) -> dict:
    names = asdict(plan) | made
    if plan.device.startswith("cuda"):
        names["device"] = f"{plan.device}, {torch.cuda.get_device_name(plan.device)}"
    recipes = {name: card["recipe"] for name, card in cards.items()}
    return names | {"recipes": recipes, "trained_on": {name: card["data"] for name, card in cards.items()}}
