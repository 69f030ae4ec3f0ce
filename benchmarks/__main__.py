"""`python -m benchmarks [attacks] [radius] [jacobian] [page]`: measure, write results.json, then the tables and plots.

Run it by `make bench`; `make bench DEVICE=cuda` measures on a GPU. Results are written after every measurement, so an
interrupted run goes on where it stopped; `make bench FRESH=1` starts again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import warnings
from datetime import date
from pathlib import Path

import torch
from scipy.stats import chi

from benchmarks import measure, page, peers
from companion import data, models, robustness, smoothness
from companion.attacks import deepfool, minimal_l2

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
BUDGETS = (10, 30, 100, 300, 1000)
# Slow per-image loops: shown once, on the first images only.
SLOW = {("torchattacks", "DeepFool"), ("ART", "DeepFool"), ("ART", "C&W")}


# Networks that were trained as usual: attacks on defended ones are the subject of the chapter on the arms race.
KINDS = {"digits": ("linear", "mlp", "cnn")}


def cases(images: int, device: str):
    """(classifier's name, images' name, classifier, x, y): the classifiers in `KINDS` on real and on generated images.

    `cifar10` joins when its networks ship, with a line in `KINDS` and one in `real`.
    """
    real = {"digits": data.held_out_digits}
    for name in (f"{family}/{kind}" for family, kinds in KINDS.items() for kind in kinds):
        family = name.split("/")[0]
        classifier, generator = models.load(name).to(device), models.load(f"{family}/generator").to(device)
        x, y = (entry.to(device) for entry in real[family]())
        right = classifier(x).argmax(1) == y
        yield name, "real", classifier, x[right][:images], y[right][:images]
        z = torch.randn(images, generator.latent_dim, generator=torch.Generator().manual_seed(0))
        x = generator(z.to(device))
        yield name, "generated", classifier, x, classifier(x).argmax(1)


def ours(budget: int) -> dict:
    return {("this book", "minimal_l2"): lambda f, x, y: minimal_l2(f, x, y, steps=budget, bounds=(0, 1))}


def attacks(results: dict, options) -> None:
    """Every attack at every budget on every case; the clock runs `repeats` times, each time through all attacks."""
    for name, images, classifier, x, y in cases(options.images, options.device):
        classes = classifier(x[:1]).shape[1]
        for budget in (*BUDGETS, None):
            key = f"{name}|{images}|{budget}"
            if key in results["attacks"]:
                continue
            if budget:
                calls = ours(budget) | peers.attacks(budget, classes)
            else:
                fixed = {("this book", "deepfool"): lambda f, x, y: deepfool(f, x, y, bounds=(0, 1))}
                calls = fixed | peers.fixed(classes)
            # Long runs are timed once: their noise is averaged over many passes.
            repeats = options.repeats if budget and budget <= 100 else 1
            rows, seconds = {}, {}
            for _ in range(repeats):
                for who, call in calls.items():
                    few = slice(20) if who in SLOW else slice(None)
                    torch.manual_seed(0)
                    outcome = measure.outcome(call, classifier, x[few], y[few])
                    rows[who] = outcome
                    seconds.setdefault(who, []).append(outcome.seconds)
            results["attacks"][key] = [
                {
                    "library": who[0],
                    "attack": who[1],
                    "distances": [round(d, 6) if math.isfinite(d) else None for d in outcome.distance.tolist()],
                    "forward": outcome.forward,
                    "backward": outcome.backward,
                    "milliseconds": 1e3 * torch.tensor(seconds[who]).median().item(),
                }
                for who, outcome in rows.items()
            ]
            save(results)
            print(key, flush=True)


def radius(results: dict, options) -> None:
    """r_in for growing numbers of metric steps, with and without the ball that holds 99.9 % of the prior."""
    generator = models.load("digits/generator").to(options.device)
    d = generator.latent_dim
    ball = float(chi(d).ppf(0.999))
    z = torch.randn(options.images, d, generator=torch.Generator().manual_seed(1)).to(options.device)
    results["ball"] = ball
    for name in (f"digits/{kind}" for kind in KINDS["digits"]):
        if name in results["radius"]:
            continue
        classifier = models.load(name).to(options.device)
        latent, witness = robustness.latent_radius(generator, classifier, z, return_witness=True)
        paper = (generator(witness) - generator(z)).flatten(1).norm(dim=1)
        rows = [{"metric_steps": 0, "ball": None, "median": paper.median().item(), "milliseconds": 0.0}]
        for steps in (10, 20, 40, 80):
            for limit in (None, ball):
                clock = measure.Clock(z.device)
                found, at = robustness.in_distribution_radius(
                    generator, classifier, z, metric_steps=steps, max_latent_norm=limit, start=witness,
                    return_witness=True,
                )  # fmt: skip
                rows.append(
                    {
                        "metric_steps": steps,
                        "ball": limit,
                        "median": found.median().item(),
                        "found": found.isfinite().double().mean().item(),
                        "norm": at.norm(dim=1).median().item(),
                        "beyond": (at.norm(dim=1) > ball).double().mean().item(),
                        "milliseconds": 1e3 * clock.seconds() / len(z),
                    }
                )
        results["radius"][name] = rows
        save(results)
        print(name, flush=True)


def dcgan() -> torch.nn.Module:
    """An untrained DCGAN generator, 100 → (3, 32, 32), in evaluation mode."""
    nn = torch.nn
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Unflatten(1, (100, 1, 1)), nn.ConvTranspose2d(100, 256, 4, bias=False)]
        for inner, outer in ((256, 128), (128, 64)):
            layers += [nn.BatchNorm2d(inner), nn.ReLU(), nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=False)]
        network = nn.Sequential(*layers, nn.BatchNorm2d(64), nn.ReLU(), nn.ConvTranspose2d(64, 3, 4, 2, 1), nn.Tanh())
    network.latent_dim = 100
    return network.eval().requires_grad_(False)


def lanczos(generator, z: torch.Tensor, steps: int) -> torch.Tensor:
    """The top singular values (n,) by Lanczos on JᵀJ, each product one forward-mode and one reverse-mode pass."""
    flat = lambda point: generator(point).flatten(1)  # noqa: E731
    start = torch.randn(z.shape[1], generator=torch.Generator().manual_seed(0)).to(z)
    basis, diagonal, beside = (start / start.norm()).expand(len(z), 1, -1), [], []
    for _ in range(steps):
        vector = basis[:, -1]
        product = torch.func.vjp(flat, z)[1](torch.func.jvp(flat, (z,), (vector,))[1])[0]
        diagonal.append((product * vector).sum(1))
        for _ in range(2):
            product = product - torch.einsum("nkd,nk->nd", basis, torch.einsum("nkd,nd->nk", basis, product))
        beside.append(product.norm(dim=1))
        basis = torch.cat([basis, (product / beside[-1][:, None])[:, None]], 1)
    off = torch.stack(beside[:-1], 1)
    matrix = torch.diag_embed(torch.stack(diagonal, 1)) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    return torch.linalg.eigvalsh(matrix)[:, -1].sqrt()


def jacobian(results: dict, options) -> None:
    """The top singular value of a DCGAN's Jacobian at 64 latents: ours, forward mode + Gram matrix, Lanczos 20."""
    if results["jacobian"]:
        return
    generator = dcgan().to(options.device)
    z = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)).to(options.device)
    exact = dcgan().double().to(options.device)
    exact.latent_dim = 100
    values = torch.cat([torch.linalg.svdvals(smoothness.jacobian(exact, part)) for part in z.double().split(8)])

    def gram(z):
        matrix = torch.func.vmap(torch.func.jacfwd(lambda p: generator(p[None]).flatten()))(z)
        return torch.linalg.eigvalsh(matrix.mT @ matrix)[:, -1].sqrt()

    calls = {
        "lipschitz_at": lambda: smoothness.lipschitz_at(generator, z),
        "jacfwd + Gram matrix": lambda: gram(z),
        "Lanczos, 20 steps": lambda: lanczos(generator, z, 20),
    }
    times, errors = {name: [] for name in calls}, {}
    for _ in range(max(3, options.repeats)):
        for name, call in calls.items():
            clock = measure.Clock(z.device)
            found = call()
            times[name].append(clock.seconds())
            errors[name] = ((found.double() - values[:, 0]).abs() / values[:, 0]).max().item()
    ratio = (values[:, 1] / values[:, 0]).median().item()
    results["jacobian"] = {
        "ratio": ratio,
        "rows": [
            {"method": name, "seconds": torch.tensor(times[name]).median().item(), "error": errors[name]}
            for name in calls
        ],
    }
    save(results)


def save(results: dict) -> None:
    fresh = RESULTS.with_suffix(".new")
    fresh.write_text(json.dumps(results, indent=None, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    os.replace(fresh, RESULTS)


def about(device: str) -> dict:
    """When and on what this was measured."""
    if device == "cuda":
        machine = torch.cuda.get_device_name()
    else:
        found = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
        machine = f"{found[0] if found else platform.processor()}, {torch.get_num_threads()} thread"
    versions = {"torch": torch.__version__, "Python": platform.python_version()} | peers.versions()
    return {"date": date.today().isoformat(), "machine": machine, "device": device, "versions": versions}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", default=["attacks", "radius", "jacobian", "page"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="art|foolbox|torchattacks|adv_lib")
    results = {"attacks": {}, "radius": {}, "jacobian": {}, "about": {}}
    if RESULTS.is_file() and not options.fresh:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for part, call in {"attacks": attacks, "radius": radius, "jacobian": jacobian}.items():
        if part in options.parts:
            before = json.dumps(results[part])
            call(results, options)
            if json.dumps(results[part]) != before or part not in results["about"]:
                results["about"][part] = about(options.device) | {"images": options.images}
    save(results)
    if "page" in options.parts:
        page.write(results)


if __name__ == "__main__":
    main()
