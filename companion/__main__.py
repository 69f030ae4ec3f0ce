"""`python -m companion train digits --out DIR`: re-create the shipped networks."""

from __future__ import annotations

import argparse

from companion.training import NETWORKS, train_digits


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m companion", description="Tools beside the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="re-create shipped networks and their registry entries")
    train.add_argument("data", choices=["digits"])
    train.add_argument("--out", required=True, help="folder to write into")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--only", choices=NETWORKS, help="make this network alone")
    options = parser.parse_args(arguments)
    registry = train_digits(options.out, seed=options.seed, only=options.only, progress=True)
    print(f"{options.out}: {', '.join(registry)}")


if __name__ == "__main__":
    main()
