"""The curves of Theorem 1, to play with."""

from __future__ import annotations

import math

import torch

from companion.smoothness import Lipschitz
from companion.vulnerability import robustness_quantile, vulnerable_fraction
from companion.widgets._base import Count, Number, Widget


class Theorem1Widget(Widget):
    """Theorem 1 for equally likely classes: how many images a small move takes to another class, at least.

    Args:
        num_classes: K, from 2 to 100,000.
        latent_dim: d, from 1 to 10,000; it enters only the normalised radius t/√d.
        lipschitz: Lipschitz constant L of the generator, from 0.1 to 100, in image units per latent unit.
        eta: size of the move, from 0.01 to 100, in image units.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Fawzi et al. (2018), Theorem 1, equations (4) to (6).
    """

    _module = "theorem1"

    num_classes = Count(10, 2, 100_000)
    latent_dim = Count(100, 1, 10_000)
    lipschitz = Number(1.0, 0.1, 100)
    eta = Number(0.5, 0.01, 100)

    def __init__(self, *, num_classes: int = 10, latent_dim: int = 100, lipschitz: float = 1.0, eta: float = 0.5):
        super().__init__(num_classes=num_classes, latent_dim=latent_dim, lipschitz=lipschitz, eta=eta)

    @property
    def bound(self) -> float:
        """The bound (4) at `eta`."""
        return float(vulnerable_fraction(self.eta, self._probabilities(), Lipschitz(self.lipschitz)))

    @property
    def quantile(self) -> float:
        """The bound on the 25 % quantile of r_Z; divide by √latent_dim for the tables' number."""
        return float(robustness_quantile(0.25, self._probabilities(), Lipschitz(1.0)))

    def _probabilities(self) -> torch.Tensor:
        return torch.full((self.num_classes,), 1 / self.num_classes, dtype=torch.float64)

    def _sentence(self) -> str:
        return (
            f"Theorem 1 for K = {self.num_classes} equally likely classes and a generator with Lipschitz "
            f"constant L = {self.lipschitz:g}: whatever the classifier, at least {100 * self.bound:.3g} % of "
            f"the images change class within a distance of η = {self.eta:g}. The 25 % quantile of "
            f"r<sub>Z</sub> is at most {self.quantile:.3g}, or "
            f"{self.quantile / math.sqrt(self.latent_dim):.3g} of √d for d = {self.latent_dim}. "
            "With JavaScript, or in a live notebook, you can move all four numbers."
        )

    def _picture(self) -> str:
        eta = torch.logspace(-2, 2, 41, dtype=torch.float64)
        bound = vulnerable_fraction(eta, self._probabilities(), Lipschitz(self.lipschitz)).tolist()
        points = " ".join(f"{10 * k},{200 - 200 * value:.1f}" for k, value in enumerate(bound))
        mark = 100 * (math.log10(self.eta) + 2)
        return (
            '<svg viewBox="-5 -5 410 210" width="410" height="210" style="max-width: 100%" role="img" '
            'aria-label="The bound of Theorem 1 over η, from 0.01 to 100 on a logarithmic scale" fill="none" '
            f'stroke="currentColor" stroke-width="1"><path d="M0 200H400M0 0V200M{mark:.1f} 0V200"/>'
            f'<polyline points="{points}" stroke-width="3"/></svg>'
        )
