"""What is asked on a device: functions of the package by name, each called at one place."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from companion import (
    approximation,
    attacks,
    certificates,
    circle,
    defences,
    models,
    projection,
    robustness,
    smoothness,
    tightness,
    transferability,
    vulnerability,
)


class Place:
    """A precision on a device, with networks, latents and images there."""

    def __init__(self, dtype: torch.dtype, device: torch.device, samples: int):
        self.dtype, self.device = dtype, device
        self.g, self.f, self.h = (self.network(name) for name in ("generator", "surrogate", "mlp"))
        draws = torch.Generator().manual_seed(0)
        z = torch.randn(samples, self.g.latent_dim, generator=draws)
        x = models.load("digits/generator")(z)
        self.z, self.x, self.y = self(z), self(x), models.load("digits/surrogate")(x).argmax(1).to(device)

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __call__(self, values) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float64).to(self.device, self.dtype)

    def network(self, name: str):
        return models.load(f"digits/{name}").to(self.device, self.dtype)

    @cached_property
    def radii(self) -> robustness.Radii:
        return robustness.radii(self.g, self.f, self.z, steps=30, metric_steps=8)


def formulas(at: Place) -> dict[str, Callable]:
    eta, q, t, p = at(torch.arange(1, 25) / 8), at([0.125, 0.25, 0.75]), at([0.125, 0.5]), at([0.125] * 8)
    one, moduli = smoothness.Lipschitz(1.0), at((torch.arange(400).reshape(200, 2) % 37 + 1) / 64)
    line, angles = circle.HalfPlane(at([0.6, -0.8]), 0.35), at(torch.arange(-9, 10) / 16)[:, None]
    simplex, other = (
        tightness.LinearPartition(at(part.weights), at(part.biases))
        for part in (tightness.simplex_partition(8, 16), tightness.random_partition(4, 16))
    )
    # Laws are counted over the partition's own draws, which are others in another precision.
    wide = tightness.simplex_partition(8, 16)
    wide = tightness.LinearPartition(wide.weights.to(at.device), wide.biases.to(at.device))
    first, second = at.x[: len(at.x) // 2 * 2].chunk(2)
    return {
        "vulnerable_fraction": lambda: vulnerability.vulnerable_fraction(eta, p, one),
        "balanced_vulnerable_fraction": lambda: vulnerability.balanced_vulnerable_fraction(eta, one),
        "equiprobable_vulnerable_fraction": lambda: vulnerability.equiprobable_vulnerable_fraction(eta, 8, one),
        "robustness_quantile": lambda: vulnerability.robustness_quantile(q, p, one),
        "expected_latent_radius": lambda: vulnerability.expected_latent_radius(p),
        "least_favourable": lambda: vulnerability.least_favourable(at([40, 30, 30])),
        "measured_vulnerable_fraction": lambda: vulnerability.measured_vulnerable_fraction(
            eta, t, moduli, class_probabilities=p
        ),
        "measured_robustness_quantile": lambda: vulnerability.measured_robustness_quantile(
            q, t, moduli, class_probabilities=p
        ),
        "clopper_pearson_upper": lambda: vulnerability.clopper_pearson_upper(at([0, 3, 9]), 9),
        "transferable_fraction": lambda: transferability.transferable_fraction(eta, 0.01, p, one),
        "balanced_transferable_fraction": lambda: transferability.balanced_transferable_fraction(eta, 0.01, p, one),
        "overlap": lambda: transferability.overlap(torch.stack([at.y, at.y.flip(0)], 1), 10),
        "overlap_transferable_fraction": lambda: transferability.overlap_transferable_fraction(eta, 0.125, p, one),
        "exact_joint_radius": lambda: transferability.exact_joint_radius(simplex, other, at.z),
        "expected_robustness": lambda: approximation.expected_robustness(one, at(0.25), p),
        "expected_in_distribution_radius": lambda: approximation.expected_in_distribution_radius(one, p),
        "transport": lambda: approximation.transport(first, second),
        "critic": lambda: approximation.critic(first, second, approximation.transport(first, second).partner)(at.x),
        "deviation": lambda: approximation.deviation(at(8.0), [100, 200]),
        "exact_latent_radius": lambda: tightness.exact_latent_radius(simplex, at.z),
        "class_probabilities": lambda: tightness.class_probabilities(wide, samples=20_000),
        "latent_law": lambda: tightness.latent_law(wide, t, samples=20_000),
        "empirical_law": lambda: tightness.empirical_law(moduli[:, 0].contiguous(), t),
        "balanced": lambda: tightness.balanced(wide, samples=2000).biases,
        "balancing_biases": lambda: tightness.balancing_biases(at.z),
        "simplex_law": lambda: tightness.simplex_law(t, 8),
        "half_space_perimeter": lambda: tightness.half_space_perimeter(p),
        "perimeter": lambda: tightness.perimeter(wide, samples=1024),
        "unconstrained_lower_bound": lambda: projection.unconstrained_lower_bound(eta, reach=q[0]),
        "circle.class_probabilities": lambda: circle.class_probabilities(line),
        "circle.exact_radii": lambda: circle.exact_radii(line, angles),
        "circle.exact_projected_radius": lambda: circle.exact_projected_radius(line, angles),
        "circle.exact_law": lambda: circle.exact_law(line, eta),
    }


def networks(at: Place) -> dict[str, Callable]:
    shape = (at.g.latent_dim,)
    return {
        "jacobian": lambda: smoothness.jacobian(at.g, at.z),
        "lipschitz_at": lambda: smoothness.lipschitz_at(at.g, at.z),
        "certified_lipschitz": lambda: at(certificates.certified_lipschitz(at.g, shape).constant),
        "nearest_other_label": lambda: vulnerability.nearest_other_label(at.g, at.h, at.z, samples=200),
    }


def convolutions(at: Place) -> dict[str, Callable]:
    return {
        "compose": lambda: robustness.compose(at.g, at.f)(at.z),
        "quantise": lambda: defences.quantise(at.x),
        "bpda": lambda: at.f(defences.bpda(defences.quantise)(at.x)),
        "eot": lambda: defences.eot(defences.RandomActivations(at.f), draws=4)(at.x),
        "logit_ensemble": lambda: attacks.logit_ensemble([at.f, at.h])(at.x),
    }


def searches(at: Place) -> dict[str, Callable]:
    box, few, training = dict(bounds=(0, 1)), at.x[:4], dict(steps=3, batch_size=8)

    def length(attack: Callable, **options) -> Tensor:
        return (attack(at.f, at.x, at.y, **options) - at.x).flatten(1).norm(dim=1)

    return {
        # The signs of small derivatives hang on the last digits, and `h` has no convolutions that drop some.
        "fgsm": lambda: attacks.fgsm(at.h, at.x, at.y, eps=0.125, keep_failed=True, **box) - at.x,
        "mi_fgsm": lambda: attacks.mi_fgsm(at.h, at.x, at.y, eps=0.125, keep_failed=True, **box) - at.x,
        "jsma": lambda: attacks.jsma(at.f, at.x, at.y, **box) - at.x,
        "deepfool": lambda: length(attacks.deepfool),
        "minimal_l2": lambda: length(attacks.minimal_l2),
        "minimal_l2 in the box": lambda: length(attacks.minimal_l2, **box),
        "lbfgs": lambda: length(attacks.lbfgs, searches=4, steps=20, **box),
        "latent_radius": lambda: robustness.latent_radius(at.g, at.f, at.z, steps=30),
        "in_distribution_radius": lambda: robustness.in_distribution_radius(at.g, at.f, at.z, steps=30, metric_steps=8),
        "unconstrained_radius": lambda: robustness.unconstrained_radius(at.f, at.x, steps=30),
        "radii": lambda: at.radii[:3],
        "lipschitz_at, Lanczos": lambda: smoothness.lipschitz_at(at.g, at.z, method="lanczos"),
        "local_modulus": lambda: smoothness.local_modulus(at.g, at.z, [0.1, 0.3], steps=10),
        "ProjectedClassifier": lambda: projection.ProjectedClassifier(at.g, at.f, starts=2)(few + 0.0625),
        "joint_radius": lambda: transferability.joint_radius([at.f, at.h], few, at.x, starts=8),
        "project": lambda: projection.project(at.g, few + 0.0625, starts=2).residual,
        "shortcut": lambda: projection.shortcut(
            projection.ProjectedClassifier(at.g, at.f, starts=2), few, at.radii.in_distribution_witness[:4], halvings=3
        ),
        "diagnose": lambda: at([*defences.diagnose(at.f, few, at.y[:4], eps=0.25, steps=5, **box).rates.values()]),
        "distill": lambda: defences.distill(at.h, at.x, at.y, **training)(at.x),
        "ensemble_adversarial_training": lambda: defences.ensemble_adversarial_training(
            at.h, [at.h], at.x, at.y, eps=0.125, **training
        )(at.x),
        "substitute": lambda: defences.substitute(at.h, at.f, at.x, rounds=2, **training)[0](at.x),
    }


def promises(at: Place) -> dict[str, tuple[Callable, float]]:
    """What is promised of every row, without a tolerance: the share of rows that break it; and of the host, a count."""
    composed = robustness.compose(at.g, at.f)

    def attacked(attack: Callable, **options) -> float:
        return lost(at.f, at.x, attack(at.f, at.x, at.f(at.x).argmax(1), **options))

    def joint() -> float:
        witness = transferability.joint_radius([at.f, at.h], at.x[:4], at.x, starts=8, return_witness=True)[1]
        return max(lost(call, at.x[:4], witness) for call in (at.f, at.h))

    return {
        "r_unc above r_in": (lambda: (~(at.radii.unconstrained <= at.radii.in_distribution)).double().mean(), 0),
        "witnesses of r_Z lost": (lambda: lost(composed, at.z, at.radii.latent_witness), 0),
        "witnesses of r_in lost": (lambda: lost(composed, at.z, at.radii.in_distribution_witness), 0),
        "witnesses of r_unc lost": (lambda: lost(at.f, at.x, at.radii.unconstrained_witness), 0),
        "witnesses of joint_radius lost": (joint, 0),
        "images of minimal_l2 lost": (lambda: attacked(attacks.minimal_l2), 0),
        "images of minimal_l2 in the box lost": (lambda: attacked(attacks.minimal_l2, bounds=(0, 1)), 0),
        "images of deepfool lost": (lambda: attacked(attacks.deepfool), 0),
        # More would leave a fast device idle: it waits each time until Python has seen the answer.
        "waits of minimal_l2 per gradient": (lambda: waits(lambda: attacks.minimal_l2(at.f, at.x, at.y)) / 100, 1),
    }


def lost(classifier, x: Tensor, witness: Tensor) -> float:
    """The share of witnesses that, alone or in other batches, are classified as `x` is in at least one of them."""
    y, n = classifier(x).argmax(1), len(x)
    batches = [
        classifier(witness),
        classifier(torch.cat([x, witness]))[n:],
        torch.cat([classifier(part) for part in witness.flip(0).split(n // 2)]).flip(0),
        torch.cat([classifier(row) for row in witness.split(1)]),
    ]
    return 1 - torch.stack([batch.argmax(1) != y for batch in batches]).all(0).double().mean().item()


class _Waits(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        index = arguments[1] if name.startswith("index") and isinstance(arguments[1], (list, tuple)) else ()
        # A number that Python asks for, and shapes that hang on values, as that of a mask used as an index does.
        self.count += name in ("_local_scalar_dense", "nonzero") or any(
            part is not None and part.dtype == torch.bool for part in index
        )
        return function(*arguments, **(keywords or {}))


def waits(call: Callable) -> int:
    """How often `call` makes the host wait for the device."""
    with _Waits() as seen:
        call()
    return seen.count
