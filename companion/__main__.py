"""`python -m companion train ...`: re-create networks. `python -m companion table ...`: measure the deck's tables."""

from __future__ import annotations

import argparse

from companion.training import CLASSIFIERS, PRESETS, train_digits, train_images


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m companion", description="Tools beside the book.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands)
    options = parser.parse_args(arguments)
    options.run(options)


def _add_train(commands) -> None:
    train = commands.add_parser("train", help="re-create networks and their registry entries; given again, it goes on")
    data = train.add_subparsers(dest="data", required=True)
    for name in ("digits", *PRESETS):
        one = data.add_parser(name)
        one.add_argument("--out", required=True, help="folder to write into")
        one.add_argument("--seed", type=int, default=0)
        kinds = [*CLASSIFIERS, "generator"] if name == "digits" else [*PRESETS[name]["cpu"]]
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


if __name__ == "__main__":
    main()
