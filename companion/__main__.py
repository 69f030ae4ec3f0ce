"""`python -m companion check`: try a device. `train`: re-create networks. `arms-race`, `table`: measure the tables.

`radii`, `bound`: measure very many generated images.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from companion import __version__, _files, arms_race, check, models, scale
from companion._cluster import connected
from companion.experiments import TABLES, table
from companion.experiments.report import REACHES
from companion.training import NETWORKS, PRESETS, RACES, race, train_digits, train_images

SHARED = argparse.ArgumentParser(add_help=False)  # what may stand before a command and after it
SHARED.add_argument(
    "--traceback", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from"
)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    options.run(options)


def from_the_shell() -> None:
    """`main`, but what the user can mend is said in one line, and Ctrl-C is no error."""
    options = _parser().parse_args()
    name = f"python -m companion {options.command}"
    try:
        options.run(options)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\n{name}: stopped; what was trained, or measured into a store, is kept: the same command goes on\n"
        )
        sys.exit(130)  # what a shell expects after Ctrl-C
    except (ValueError, OSError, ImportError, _files.Damaged) as error:
        if "traceback" in options:
            raise
        sys.exit(f"{name}: {error} (where this comes from: --traceback)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m companion", description="Tools beside the book.", parents=[SHARED])
    parser.add_argument("--version", action="version", version=f"companion {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_check(commands)
    _add_train(commands)
    _add_arms_race(commands)
    _add_table(commands)
    _add_radii(commands)
    _add_bound(commands)
    return parser


def _add_check(commands) -> None:
    about = "compare every function on a device with float64 on the CPU, in a minute"
    one = commands.add_parser("check", help=about, parents=[SHARED])
    one.add_argument("--device", default="cpu", help="such as cuda (cpu)")
    one.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> None:
    try:
        device = check.usable(options.device)
    except ValueError as error:
        sys.exit(f"python -m companion check: {error}")
    print(f"{'':50}{'difference':>12}{'tolerance':>12}{'seconds':>9}", flush=True)
    rows = []
    for row in check.run(device):
        verdict = "ok" if row.passed else row.error or "DIFFERS"
        print(f"{row.name:50}{row.difference:12.1e}{row.tolerance:12.0e}{row.seconds:9.2f}  {verdict}", flush=True)
        rows.append(row)
    failed = [row.name for row in rows if not row.passed]
    seconds = sum(row.seconds for row in rows)
    print(f"{device}: {len(rows) - len(failed)} of {len(rows)} as they should be, {seconds:.0f} s on the device")
    if failed:
        sys.exit(f"Not as they should be: {'; '.join(failed)}")


def _add_train(commands) -> None:
    train = commands.add_parser("train", help="re-create networks and their registry entries; given again, it goes on")
    data = train.add_subparsers(dest="data", required=True)
    for name in ("digits", *PRESETS):
        one = data.add_parser(name, parents=[SHARED])
        one.add_argument("--out", required=True, help="folder to write into")
        one.add_argument("--seed", type=int, default=0)
        kinds = NETWORKS if name == "digits" else [*PRESETS[name]["cpu"], *(race.NETWORKS if name in RACES else [])]
        one.add_argument("--only", choices=kinds, help="make this network alone")
        if name != "digits":
            one.add_argument("--preset", choices=[*PRESETS[name]], default="cpu", help="how wide and how long (cpu)")
            one.add_argument("--root", help="folder with the data (COMPANION_DATA); without it, a download")
            one.add_argument("--device", help="such as cpu or cuda; by default a GPU if there is one")
        one.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    shared = dict(seed=options.seed, only=options.only, progress=True)
    if options.data == "digits":
        registry = train_digits(options.out, **shared)
    else:
        if options.device:
            check.usable(options.device, torch.float32)
        own = dict(preset=options.preset, root=options.root, device=options.device)
        registry = train_images(options.data, options.out, **own, **shared)
    print(f"{options.out}: {', '.join(registry)}")


def _add_arms_race(commands) -> None:
    about = "measure every attack against every defence; given again, it goes on"
    one = commands.add_parser("arms-race", help=about, parents=[SHARED])
    one.add_argument("data", choices=[*arms_race.SETTINGS])
    one.add_argument("--out", required=True, help="JSON file to write; beside it, FILE.chunks, which may be deleted")
    one.add_argument("--weights", default=models.WEIGHTS, help="folder that train has written (the shipped networks)")
    one.add_argument("--images", type=int, default=100, help="how many held-out images (100)")
    one.add_argument("--chunk", type=int, default=25, help="images at a time (25)")
    one.add_argument("--root", help="folder with the data set (COMPANION_DATA); without it, a download")
    _add_where(one)
    one.set_defaults(run=_arms_race)


def _arms_race(options: argparse.Namespace) -> None:
    out = _file(options.out)
    with _client(options) as client:
        own = {name: getattr(options, name) for name in ("weights", "images", "seed", "chunk", "root")}
        found = arms_race.run(options.data, **own, store=_store(options), client=client, progress=True)
        arms_race.save(found, out)


def _add_table(commands) -> None:
    about = "measure one of the paper's tables; given again, it goes on"
    one = commands.add_parser("table", help=about, parents=[SHARED])
    one.add_argument("data", choices=[*TABLES])
    one.add_argument("--out", required=True, help="folder to write into")
    one.add_argument("--weights", default=models.WEIGHTS, help="folder that train has written (the shipped networks)")
    one.add_argument("--samples", type=int, default=2_000, help="generated images (2000)")
    one.add_argument("--steps", type=int, default=50, help="gradients per image and attack (50)")
    one.add_argument("--metric-steps", type=int, default=8, help="steps along the data manifold per image (8)")
    one.add_argument("--chunk", type=int, default=50, help="images at a time (50)")
    one.add_argument("--root", help="folder with the data set, to measure the error rates again")
    _add_device(one)
    _add_where(one)
    one.set_defaults(run=_table)


def _table(options: argparse.Namespace) -> None:
    names = "weights samples steps metric_steps chunk seed device store root".split()
    with _client(options) as client:
        own = {name: getattr(options, name) for name in names}
        table(options.data, options.out, **own, client=client, progress=True)
    print((Path(options.out) / "table.md").read_text(encoding="utf-8"))


def _add_radii(commands) -> None:
    about = "measure the three radii of very many generated images; given again, it goes on"
    one = commands.add_parser("radii", help=about, parents=[SHARED])
    _add_networks(one)
    one.add_argument("--out", required=True, help="safetensors file to write; beside it, FILE.chunks")
    one.add_argument("--steps", type=int, default=100, help="gradients per image and attack (100)")
    one.add_argument("--metric-steps", type=int, default=60, help="steps along the data manifold per image (60)")
    one.add_argument("--chunk", type=int, default=50, help="images at a time (50)")
    _add_where(one)
    one.set_defaults(run=_radii)


def _radii(options: argparse.Namespace) -> None:
    out = _file(options.out)
    with _client(options) as client:
        own = dict(steps=options.steps, metric_steps=options.metric_steps, **_of_scale(options, client))
        found = scale.radii(*_networks(options), options.samples, store=_store(options), **own)
    scale.save(found, out)
    print(f"{options.samples} generated images; quantiles {', '.join(f'{q:.0%}' for q in QUANTILES)}")
    for name in ("latent", "in_distribution", "unconstrained"):
        values = ", ".join(f"{scale.quantile(getattr(found, name), q):.4g}" for q in QUANTILES)
        print(f"{name.replace('_', '-') + ' radius':24} {values}")


def _add_bound(commands) -> None:
    about = "count labels and local moduli of very many latents, for Theorem 1; given again with --store, it goes on"
    one = commands.add_parser("bound", help=about, parents=[SHARED])
    _add_networks(one)
    one.add_argument(
        "--reaches", type=float, nargs="*", default=REACHES, help="latent radii of the modulus; none: labels alone"
    )
    one.add_argument("--steps", type=int, default=10, help="steps of ascent per latent, radius and start (10)")
    one.add_argument("--chunk", type=int, default=10_000, help="latents at a time (10000)")
    _add_where(one)
    one.set_defaults(run=_bound)


def _bound(options: argparse.Namespace) -> None:
    with _client(options) as client:
        own = dict(steps=options.steps, store=options.store, **_of_scale(options, client))
        found = scale.census(*_networks(options), options.samples, t=options.reaches, **own)
    shares = found.class_counts.double() / found.class_counts.sum()
    print(f"{options.samples} latents; class probabilities {', '.join(f'{share:.4g}' for share in shares.tolist())}")
    for q in QUANTILES if options.reaches else ():
        most = found.robustness_quantile(q).item()
        print(f"of all images, {q:.0%} have an in-distribution radius of at most {most:.4g}")


QUANTILES = (0.05, 0.25, 0.5)


def _add_networks(one: argparse.ArgumentParser) -> None:
    one.add_argument("generator", help="name of a network, such as cifar10/generator")
    one.add_argument("classifier", help="name of a network, such as cifar10/vgg")
    one.add_argument("--weights", default=models.WEIGHTS, help="folder that train has written (the shipped networks)")
    one.add_argument("--samples", type=int, default=2_000, help="generated images (2000)")
    _add_device(one)


def _networks(options: argparse.Namespace):
    return (models.load(name, folder=options.weights) for name in (options.generator, options.classifier))


def _of_scale(options: argparse.Namespace, client) -> dict:
    names = "chunk seed device".split()
    return {name: getattr(options, name) for name in names} | {"client": client, "progress": True}


def _add_device(one: argparse.ArgumentParser) -> None:
    one.add_argument("--device", help="such as cpu or cuda; by default a GPU wherever the worker has one")


def _add_where(one: argparse.ArgumentParser) -> None:
    """Seed, store and workers: what everything that is measured in chunks takes."""
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--store", help="folder or address (s3://...) for finished chunks, which runs may share")
    where = one.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, default=1, help="processes of this machine that share the work (1)")
    where.add_argument("--scheduler", help="address of a Dask scheduler whose workers do the work")


@contextmanager
def _client(options: argparse.Namespace):
    if getattr(options, "device", None) and options.scheduler is None:
        check.usable(options.device, torch.float32)
    with connected(options.scheduler, options.workers) as client:
        if client is not None:
            sys.stderr.write(f"dashboard: {client.dashboard_link}\n")
            if not client.scheduler_info()["workers"]:
                sys.stderr.write("no worker is there yet: waiting for the first one\n")
        yield client


def _file(out: str) -> Path:
    """The path of a file that can be written."""
    path = Path(out)
    if path.is_dir():
        raise ValueError(f"out must be a file to write, got the folder {out!r}")
    _files.ready(path.parent)
    return path


def _store(options: argparse.Namespace) -> str:
    return options.store or f"{options.out}.chunks"


if __name__ == "__main__":
    from_the_shell()
