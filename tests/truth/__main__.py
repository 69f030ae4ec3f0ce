"""How far the package's radii are from the truth: `python -m tests.truth [--seed 0] [--rows 50]`."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from companion.attacks import minimal_l2
from companion.robustness import in_distribution_radius, latent_radius, radii, unconstrained_radius

from .cases import CHANGES, REACH, TWO_CLASSES, Points, changed, quadratic_points, relu_points, smooth_latents

STEPS = (3, 5, 10, 17, 30, 50, 100, 150, 300)


def attacked(case: Points, steps: int) -> np.ndarray:
    """What `minimal_l2` finds (n,), `inf` where the label stays."""
    adversarial = minimal_l2(case.classifier, case.x, case.y, steps=steps, bounds=case.bounds)
    over = case.classifier(adversarial).argmax(1) != case.y
    return torch.where(over, (adversarial - case.x).flatten(1).norm(dim=1), torch.inf).detach().numpy()


def row(name: str, found: np.ndarray, exact: np.ndarray, seconds: float = float("nan")) -> None:
    ratio = np.divide(found, exact, out=np.ones_like(exact), where=np.isfinite(exact))
    missed = np.isinf(ratio)
    worst = ratio[~missed].max(initial=0)
    print(
        f"{name:42s} {len(ratio):5d} {100 * (ratio < 1.01).mean():7.1f} {100 * (ratio > 1.1).mean():7.1f} "
        f"{worst:8.3f} {missed.sum():6d} {100 * (ratio < 1 - 1e-6).mean():7.1f} {seconds:7.1f}",
        flush=True,
    )


def unconstrained(name: str, cases: list[Points], budgets) -> None:
    exact = np.concatenate([case.exact for case in cases])
    for steps in budgets:
        started = time.process_time()
        found = np.concatenate([attacked(case, steps) for case in cases])
        row(f"{name}, minimal_l2 {steps}", found, exact, time.process_time() - started)
    for case in cases:
        row(f"  {case.name}, minimal_l2 100", attacked(case, 100), case.exact)
    found = np.concatenate(
        [unconstrained_radius(case.classifier, case.x, bounds=case.bounds).detach().numpy() for case in cases]
    )
    row(f"{name}, unconstrained_radius", found, exact)


def longer(name: str, cases: list[Points]) -> None:
    """Rows that get a longer radius from more steps."""
    found = np.stack([np.concatenate([attacked(case, steps) for case in cases]) for steps in STEPS])
    with np.errstate(invalid="ignore"):
        ratio = np.nan_to_num(found[1:] / np.minimum.accumulate(found)[:-1], nan=1.0, posinf=np.inf)
    share = 100 * (ratio > 1 + 1e-9).any(0).mean()
    lost = np.isinf(ratio).any(0).sum()
    worst = ratio[np.isfinite(ratio)].max()
    print(
        f"{name}: more steps, longer radius in {share:.1f} % of rows, worst {worst:.3f} times, {lost} lost", flush=True
    )


def latent(name: str, cases: list, budgets) -> None:
    exact_z, exact_in = (np.concatenate([getattr(c, n) for c in cases]) for n in ("latent", "in_distribution"))
    join = lambda measure: np.concatenate([measure(c.generator, c.classifier, c.z).numpy() for c in cases])  # noqa: E731
    for steps in budgets:
        started = time.process_time()
        found = join(lambda *case, steps=steps: latent_radius(*case, steps=steps))
        row(f"{name}, latent_radius {steps}", found, exact_z, time.process_time() - started)
    for metric_steps in (3, 8, 20, 60):
        started = time.process_time()
        found = join(lambda *case, m=metric_steps: in_distribution_radius(*case, metric_steps=m))
        row(f"{name}, in_distribution_radius {metric_steps}", found, exact_in, time.process_time() - started)
    started = time.process_time()
    # In the ball of the grid, nothing may be shorter than the truth.
    results = [radii(c.generator, c.classifier, c.z, max_latent_norm=REACH) for c in cases]
    seconds = time.process_time() - started
    row(f"{name}, radii in the ball, r_Z", np.concatenate([r.latent.numpy() for r in results]), exact_z, seconds)
    row(f"{name}, radii in the ball, r_in", np.concatenate([r.in_distribution.numpy() for r in results]), exact_in)
    for c, r in zip(cases, results, strict=True):
        row(f"  {c.name}, r_Z", r.latent.numpy(), c.latent)
        row(f"  {c.name}, r_in", r.in_distribution.numpy(), c.in_distribution)
    nearer, order, paper = (np.concatenate(column) for column in zip(*map(disorder, cases, results), strict=True))
    print(
        f"{name}: the in-distribution witness lies nearer to z than r_Z in {100 * nearer.mean():.1f} % of rows; "
        f"r_unc > r_in in {order.sum()}, r_in > image distance of the latent witness in {paper.sum()}",
        flush=True,
    )


def variants(seed: int, rows: int) -> None:
    """The same networks with other logits and dtypes, whose radii are the same; a thousand classes."""
    cases = [*relu_points(seed, rows)]
    exact = np.concatenate([case.exact for case in cases])
    for dtype in (torch.float64, torch.float32):
        for name in CHANGES:
            found = np.concatenate([attacked(changed(case, name, dtype), 100) for case in cases])
            row(f"relu, {str(dtype)[6:]}, {name}", found, exact)
    for case in quadratic_points(seed, rows, [(20, 1000)]):
        for steps in (30, 100, 300):
            row(f"quadratic, {case.name}, minimal_l2 {steps}", attacked(case, steps), case.exact)


def disorder(case, result) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (n,) in which the radii contradict each other."""
    reached = (result.in_distribution_witness - case.z).norm(dim=1)
    nearer = result.in_distribution.isfinite() & (reached < result.latent * (1 - 1e-6))
    paper_style = (case.generator(result.latent_witness) - case.generator(case.z)).flatten(1).norm(dim=1)
    paper_style = torch.where(result.latent.isfinite(), paper_style, torch.inf)
    order = result.unconstrained > result.in_distribution * (1 + 1e-6)
    return nearer.numpy(), order.numpy(), (result.in_distribution > paper_style * (1 + 1e-6)).numpy()


def counterexamples() -> None:
    """One network each, at which a single search goes wrong."""

    def early(x):
        margin = -0.2 - 0.5 * x + 8 * (x - 0.8).relu()
        return torch.cat([torch.zeros_like(margin), margin], 1)

    x, y = torch.full((1, 1), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    for steps in (10, 100, 1000):
        point = Points("", early, x, y, (0, 1), np.array([0.38]))
        row(f"late kink in the box, minimal_l2 {steps}", attacked(point, steps), point.exact)
    free = Points("", early, x, y, None, np.array([0.38]))
    row("late kink, no box, minimal_l2 100", attacked(free, 100), free.exact)

    def identity(z):
        return z * 1.0

    identity.latent_dim = 1
    result = radii(identity, early, x)
    row("late kink, identity generator, r_Z", result.latent.numpy(), free.exact)
    row("late kink, identity generator, r_in", result.in_distribution.numpy(), free.exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=40, help="rows of each network")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--only", choices=["relu", "box", "two", "quadratic", "d1", "d2", "named", "variants"])
    options = parser.parse_args()
    print(
        f"{'':42s} {'rows':>5s} {'<1 %':>7s} {'>10 %':>7s} {'worst':>8s} {'missed':>6s} {'below':>7s} {'seconds':>7s}"
    )
    families = {
        "relu": lambda: [*relu_points(options.seed, options.rows)],
        "box": lambda: [*relu_points(options.seed + 20, options.rows, (0.0, 1.0))],
        "two": lambda: [*relu_points(options.seed + 40, options.rows, networks=TWO_CLASSES)],
        "quadratic": lambda: [*quadratic_points(options.seed, options.rows)],
        "d1": lambda: [*smooth_latents(options.seed, options.rows, 1)],
        "d2": lambda: [*smooth_latents(options.seed, options.rows, 2)],
    }
    for name, make in families.items():
        if options.only in (None, name):
            started = time.process_time()
            cases = make()
            print(f"{name}: truth in {time.process_time() - started:.1f} s")
            if name.startswith("d"):
                latent(name, cases, options.steps)
            else:
                unconstrained(name, cases, options.steps)
                longer(name, cases)
    if options.only in (None, "named"):
        counterexamples()
    if options.only in (None, "variants"):
        variants(options.seed, options.rows)


if __name__ == "__main__":
    main()
