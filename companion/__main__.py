"""`python -m companion check`: try a device. `train`: re-create networks. `arms-race`, `table`: measure the tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from companion import __version__, _files, arms_race, check, models
from companion.experiments import TABLES, table
from companion.training import NETWORKS, PRESETS, train_digits, train_images

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
        sys.stderr.write(f"\n{name}: stopped; train, table and arms-race go on when they are given again\n")
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
        kinds = NETWORKS if name == "digits" else [*PRESETS[name]["cpu"]]
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
    race = commands.add_parser("arms-race", help=about, parents=[SHARED])
    race.add_argument("data", help="digits, or another set whose networks are trained")
    race.add_argument("--out", required=True, help="JSON file to write; beside it, FILE.chunks, which may be deleted")
    race.add_argument("--images", type=int, default=100, help="how many held-out images")
    race.add_argument("--seed", type=int, default=0)
    race.add_argument("--chunk", type=int, default=25, help="images at a time (25)")
    race.set_defaults(run=_arms_race)


def _arms_race(options: argparse.Namespace) -> None:
    out = Path(options.out)
    if out.is_dir():
        raise ValueError(f"out must be a file to write, got the folder {options.out!r}")
    _files.ready(out.parent)
    own = dict(images=options.images, seed=options.seed, chunk=options.chunk, folder=f"{out}.chunks")
    arms_race.save(arms_race.run(options.data, **own, progress=True), out)


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
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--device", help="such as cpu or cuda; by default a GPU if there is one")
    one.add_argument("--workers", type=int, default=1, help="processes that share the work (1)")
    one.add_argument("--root", help="folder with the data set, to measure the error rates again")
    one.set_defaults(run=_table)


def _table(options: argparse.Namespace) -> None:
    if options.device:
        check.usable(options.device, torch.float32)
    others = ("command", "run", "data", "out", "traceback")
    own = {name: value for name, value in vars(options).items() if name not in others}
    table(options.data, options.out, **own, progress=True)
    print((Path(options.out) / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    from_the_shell()
