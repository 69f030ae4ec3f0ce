"""`python -m companion train digits --out DIR`: re-create the shipped networks; `arms-race`: attack them all."""

from __future__ import annotations

import argparse

from companion import arms_race
from companion.training import NETWORKS, train_digits


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m companion", description="Tools beside the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="re-create shipped networks and their registry entries")
    train.add_argument("data", choices=["digits"])
    train.add_argument("--out", required=True, help="folder to write into")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--only", choices=NETWORKS, help="make this network alone")
    race = commands.add_parser("arms-race", help="measure every attack against every defence")
    race.add_argument("data", help="digits, or another set whose networks are trained")
    race.add_argument("--out", required=True, help="JSON file to write")
    race.add_argument("--images", type=int, default=100, help="how many held-out images")
    race.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.command == "arms-race":
        found = arms_race.run(options.data, images=options.images, seed=options.seed, progress=True)
        arms_race.save(found, options.out)
        return
    registry = train_digits(options.out, seed=options.seed, only=options.only, progress=True)
    print(f"{options.out}: {', '.join(registry)}")


if __name__ == "__main__":
    main()
