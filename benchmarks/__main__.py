"""`python -m benchmarks [attacks] [radius] [jacobian] [page]`: measure, write results.json, then the tables and plots.

Run it by `make bench`; `make bench DEVICE=cuda` measures on a GPU. Results are written after every measurement, so an
interrupted run goes on where it stopped; `make bench FRESH=1` starts again. After a change of our attack,
`.venv-bench/bin/python -m benchmarks attacks --only ours --fresh` measures it alone, `... page` writes the page.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import warnings
from datetime import date
from pathlib import Path

import torch
from scipy.stats import chi

from benchmarks import attacks, measure, page, peers
from companion import _files, models, robustness, smoothness

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
RADIUS_IMAGES = 200


def radius(results: dict, options, save) -> None:
    """r_in for growing numbers of metric steps, with and without the ball that holds 99.9 % of the prior."""
    generator = models.load("digits/generator").to(options.device)
    d = generator.latent_dim
    ball = float(chi(d).ppf(0.999))
    images = options.images or RADIUS_IMAGES
    z = torch.randn(images, d, generator=torch.Generator().manual_seed(1)).to(options.device)
    results["ball"] = ball
    for name in (f"digits/{kind}" for kind in attacks.KINDS["digits"]):
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
        save()
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


def jacobian(results: dict, options, save) -> None:
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
    results.setdefault("networks", {})["cifar10/generator"] = attacks.shipped("cifar10/generator")
    results["jacobian"] = {
        "ratio": ratio,
        "rows": [
            {"method": name, "seconds": torch.tensor(times[name]).median().item(), "error": errors[name]}
            for name in calls
        ],
    }
    save()


def alone() -> int:
    """Hold the folder until this process ends: of two runs at a time each would overwrite what the other found."""
    folder = os.open(HERE, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"another run writes {RESULTS}; wait for its end, or stop it") from None
    return folder


def save(results: dict) -> None:
    _files.write_json(RESULTS, results, separators=(",", ":"), allow_nan=False)


def about(device: str) -> dict:
    """When and on what this was measured."""
    versions = {"torch": torch.__version__, "Python": platform.python_version()} | peers.versions()
    return {"date": date.today().isoformat(), "machine": measure.machine(device), "versions": versions}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--only", choices=["ours", "peers"], help="of the attacks: this book's, or the others")
    parser.add_argument("--on", default="", help="attacks on classifiers whose name begins so: cifar10, digits/cnn")
    parser.add_argument("--most", type=int, help="attacks at budgets up to so many gradients")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, help=f"default: {attacks.IMAGES}, and {RADIUS_IMAGES} for the radius")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before of what is asked for")
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"parts must be of {', '.join(PARTS)}, got {part!r}")
    return options


PARTS = {"attacks": attacks.run, "radius": radius, "jacobian": jacobian, "page": None}


def main() -> None:
    options = _options()
    alone()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="art|foolbox|torchattacks|adv_lib")
    results = {"attacks": {}, "radius": {}, "jacobian": {}, "about": {}}
    if RESULTS.is_file():
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    for part in (part for part in PARTS if part in options.parts and part != "page"):
        if options.fresh and part != "attacks":
            results[part] = {}
        before = json.dumps(results[part])
        PARTS[part](results, options, lambda: save(results))
        if json.dumps(results[part]) != before or part not in results["about"]:
            results["about"][part] = about(options.device)
            if part == "radius":
                results["about"][part]["images"] = options.images or RADIUS_IMAGES
            save(results)
    if "page" in options.parts:
        page.write(results)


if __name__ == "__main__":
    main()
