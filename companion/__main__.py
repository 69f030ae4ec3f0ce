"""`python -m companion check`: try a device. `train`: re-create networks. `arms-race`, `table`: measure the tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from companion import arms_race, check, models
from companion.experiments import TABLES, table
from companion.training import NETWORKS, PRESETS, train_digits, train_images


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m companion", description="Tools beside the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_check(commands)
    _add_train(commands)
    _add_arms_race(commands)
    _add_table(commands)
    options = parser.parse_args(arguments)
    options.run(options)


def _add_check(commands) -> None:
    one = commands.add_parser("check", help="compare every function on a device with float64 on the CPU, in a minute")
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
        one = data.add_parser(name)
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
        own = dict(preset=options.preset, root=options.root, device=options.device)
        registry = train_images(options.data, options.out, **own, **shared)
    print(f"{options.out}: {', '.join(registry)}")


def _add_arms_race(commands) -> None:
    race = commands.add_parser("arms-race", help="measure every attack against every defence")
    race.add_argument("data", help="digits, or another set whose networks are trained")
    race.add_argument("--out", required=True, help="JSON file to write")
    race.add_argument("--images", type=int, default=100, help="how many held-out images")
    race.add_argument("--seed", type=int, default=0)
    race.set_defaults(run=_arms_race)


def _arms_race(options: argparse.Namespace) -> None:
    found = arms_race.run(options.data, images=options.images, seed=options.seed, progress=True)
    arms_race.save(found, options.out)


def _add_table(commands) -> None:
    one = commands.add_parser("table", help="measure one of the deck's tables; given again, it goes on")
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
    own = {name: value for name, value in vars(options).items() if name not in ("command", "run", "data", "out")}
    table(options.data, options.out, **own, progress=True)
    print((Path(options.out) / "table.md").read_text())


if __name__ == "__main__":
    main()
