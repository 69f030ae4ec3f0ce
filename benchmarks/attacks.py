"""What is measured: which attack, at which budget, on which images; a stored row is never measured twice."""

from __future__ import annotations

import math
import os
from datetime import date
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import measure, peers
from companion import data, models
from companion.attacks import deepfool, minimal_l2

# Gradients per image that the peers may take, and a finer list for ours: peers are compared with what ours found in no
# more passes, and ours takes other passes at the same gradients.
BUDGETS = {"digits": (10, 30, 100, 300, 1000), "cifar10": (30, 100, 300, 1000)}
OURS = {
    "digits": (10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000),
    "cifar10": (10, 20, 30, 50, 75, 100, 200, 300, 1000),
}
KINDS = {"digits": ("linear", "mlp", "cnn"), "cifar10": ("wide-resnet", "vgg", "wide-resnet-adversarial")}
IMAGES = {"digits": 100, "cifar10": 24}
# A gradient of a CIFAR-10 network takes a hundred times as long, so only the better peers run there.
ON_PHOTOGRAPHS = {
    ("adv-lib", name)
    for name in ("DDN", "ALMA", "PDGD", "FMN, step 0.1", "FAB", "APGD", "TR, adaptive", "DeepFool", "SuperDeepFool")
}
ON_PHOTOGRAPHS_AT_1000 = {("adv-lib", name) for name in ("DDN", "ALMA", "APGD, targeted")}
# Slow per-image loops: shown once, on the first images only.
SLOW = {("torchattacks", "DeepFool"), ("ART", "DeepFool"), ("ART", "C&W")}


class Case(NamedTuple):
    """Images x (n, *image) that `classifier` gives the labels y (n,); `images` says where they are from."""

    name: str
    images: str
    classifier: nn.Module
    x: Tensor
    y: Tensor

    @property
    def family(self) -> str:
        return self.name.split("/")[0]


def cases(options):
    """The classifiers in `KINDS` on real images, the digits also on generated ones; skips what `options.on` excludes.

    CIFAR-10 is read from the folder that COMPANION_DATA names. Without one its stored rows stay as they are.
    """
    for family, kinds in KINDS.items():
        if family == "cifar10" and not os.environ.get(data.VARIABLE):
            print(f"cifar10: stored rows are kept, {data.VARIABLE} names no folder with the photographs", flush=True)
            continue
        images, labels = REAL[family]()
        n = options.images or IMAGES[family]
        for name in (f"{family}/{kind}" for kind in kinds):
            if not name.startswith(options.on):
                continue
            classifier = models.load(name).to(options.device)
            x, y = images[: 4 * n].to(options.device), labels[: 4 * n].to(options.device)
            right = classifier(x).argmax(1) == y
            yield Case(name, "real", classifier, x[right][:n], y[right][:n])
            if family == "digits":
                generator = models.load(f"{family}/generator").to(options.device)
                z = torch.randn(n, generator.latent_dim, generator=torch.Generator().manual_seed(0))
                x = generator(z.to(options.device))
                yield Case(name, "generated", classifier, x, classifier(x).argmax(1))


_cifar10 = cache(data.cifar10)


def _photographs() -> tuple[Tensor, Tensor]:
    return _cifar10().test_images[:1000].float() / 255, _cifar10().test_labels[:1000]


REAL = {"digits": data.held_out_digits, "cifar10": _photographs}


def calls(family: str, budget: int | None, classes: int, only: str | None = None) -> dict:
    """{(library, attack): call} for one budget, None standing for the attacks that stop by themselves."""
    mine, others = {}, {}
    if budget is None:
        mine = {("this book", "deepfool"): lambda f, x, y: deepfool(f, x, y, bounds=(0, 1))}
        others = peers.fixed(classes) if only != "ours" else {}
    if budget in OURS[family]:
        mine = {("this book", "minimal_l2"): lambda f, x, y: minimal_l2(f, x, y, steps=budget, bounds=(0, 1))}
    if budget in BUDGETS[family] and only != "ours":
        others = peers.attacks(budget, classes)
    if family == "cifar10":
        wanted = ON_PHOTOGRAPHS_AT_1000 if budget == 1000 else ON_PHOTOGRAPHS
        others = {who: call for who, call in others.items() if who in wanted}
    return {None: mine | others, "ours": mine, "peers": others}[only]


def run(results: dict, options, save) -> None:
    """Measure what `results` lacks, every attack at every budget on every case; `save` is called after each part."""
    for case in cases(options):
        prepare(results, case, options)
        results.setdefault("networks", {})[case.name] = shipped(case.name)
        if case.family == "cifar10":
            results["photographs"] = _cifar10().copy["sha256"]["test_batch.bin"]
        classes = case.classifier(case.x[:1]).shape[1]
        for budget in (None, *sorted({*BUDGETS[case.family], *OURS[case.family]})):
            if budget and options.most and budget > options.most:
                break
            key = f"{case.name}|{case.images}|{budget}"
            done = results["attacks"].setdefault(key, [])
            wanted = calls(case.family, budget, classes, options.only)
            wanted = {who: call for who, call in wanted.items() if who not in {_who(row) for row in done}}
            # Long runs are timed once: their noise is averaged over many passes. Short ones take turns, so that a slow
            # moment of the machine hurts all.
            short = case.family == "digits" and budget and budget <= 100
            for group in [wanted] if short else [{who: call} for who, call in wanted.items()]:
                done += measured(case, group, options.repeats if short else 1)
                save()
            if wanted:
                print(key, flush=True)


def prepare(results: dict, case: Case, options) -> None:
    """Forget the rows of this case that are to be measured afresh; refuse to mix networks, or numbers of images."""
    for key, rows in results["attacks"].items():
        if not key.startswith(f"{case.name}|{case.images}|"):
            continue
        if options.fresh:
            forgotten = {None: rows, "ours": [r for r in rows if _ours(r)], "peers": [r for r in rows if not _ours(r)]}
            rows[:] = [row for row in rows if row not in forgotten[options.only]]
        known = results.get("networks", {}).get(case.name)
        if rows and known != shipped(case.name):
            raise ValueError(
                f"{key} has stored rows of another network, SHA-256 {known}, got {shipped(case.name)}; "
                "start again with --fresh"
            )
        stored = {len(row["distances"]) for row in rows if _who(row) not in SLOW}
        if stored - {len(case.x)}:
            raise ValueError(
                f"images must be {stored.pop()}, as in the stored rows of {key}, got {len(case.x)}; "
                "or start again with --fresh"
            )


def shipped(name: str) -> str | None:
    """The SHA-256 of the network that comes with the package under this name."""
    return models.card(name)["sha256"] if name in models.names() else None


def measured(case: Case, group: dict, repeats: int) -> list[dict]:
    """A row for each attack; the clock runs `repeats` times, each time through all attacks."""
    found, seconds = {}, {}
    for call in group.values():
        getattr(call, "warm_up", lambda: None)()
    for _ in range(repeats):
        for who, call in group.items():
            few = slice(20) if who in SLOW else slice(None)
            torch.manual_seed(0)
            found[who] = measure.outcome(call, case.classifier, case.x[few], case.y[few])
            seconds.setdefault(who, []).append(found[who].seconds)
    return [
        {
            "library": who[0],
            "attack": who[1],
            "distances": [round(d, 6) if math.isfinite(d) else None for d in outcome.distance.tolist()],
            "forward": outcome.forward,
            "backward": outcome.backward,
            "milliseconds": 1e3 * torch.tensor(seconds[who]).median().item(),
            "date": date.today().isoformat(),
            "machine": measure.machine(case.x.device.type),
        }
        for who, outcome in found.items()
    ]


def _who(row: dict) -> tuple[str, str]:
    return row["library"], row["attack"]


def _ours(row: dict) -> bool:
    return row["library"] == "this book"
