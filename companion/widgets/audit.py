"""Which quantiles, class counts and latent dimensions explain the 0.016 of the paper's tables, to play with."""

from __future__ import annotations

import math

import torch

from companion.smoothness import Lipschitz
from companion.vulnerability import robustness_quantile, vulnerable_fraction
from companion.widgets._base import Count, Number, Widget

# What two digits round to the printed 0.016.
_LOW, _HIGH = 0.0155, 0.0165


class AuditWidget(Widget):
    """The bound on the q-quantile of r_Z, relative to the norm of a latent: does it round to the printed 0.016?

    Args:
        q: the quantile, from 0.01 to 0.99.
        num_classes: K, equally likely, from 2 to 1,000.
        latent_dim: d, from 1 to 10,000.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: Fawzi et al. (2018), Theorem 1, solved for the quantile; their tables print 0.016.
    """

    _module = "audit"

    q = Number(0.25, 0.01, 0.99)
    num_classes = Count(10, 2, 1000)
    latent_dim = Count(100, 1, 10_000)

    def __init__(self, *, q: float = 0.25, num_classes: int = 10, latent_dim: int = 100):
        super().__init__(q=q, num_classes=num_classes, latent_dim=latent_dim)

    @property
    def step(self) -> float:
        """t_q, the bound on the q-quantile of r_Z, in latent units."""
        return float(robustness_quantile(self.q, self._probabilities(), Lipschitz(1.0)))

    @property
    def mean_norm(self) -> float:
        """E‖z‖ = √2 Γ((d+1)/2) / Γ(d/2)."""
        return math.sqrt(2) * math.exp(math.lgamma((self.latent_dim + 1) / 2) - math.lgamma(self.latent_dim / 2))

    @property
    def relative(self) -> tuple[float, float]:
        """t_q / E‖z‖ and t_q / √d."""
        return self.step / self.mean_norm, self.step / math.sqrt(self.latent_dim)

    @property
    def quantiles(self) -> tuple[float, float]:
        """From which q on, and below which, t_q / E‖z‖ rounds to 0.016 for these K and d."""
        ends = torch.tensor([_LOW, _HIGH], dtype=torch.float64) * self.mean_norm
        low, high = vulnerable_fraction(ends, self._probabilities(), Lipschitz(1.0)).tolist()
        return low, high

    def _probabilities(self) -> torch.Tensor:
        return torch.full((self.num_classes,), 1 / self.num_classes, dtype=torch.float64)

    def _sentence(self) -> str:
        mean, root = self.relative
        low, high = self.quantiles
        return (
            f"The bound on the {100 * self.q:g} % quantile of r<sub>Z</sub> for K = {self.num_classes} equally likely "
            f"classes is {self.step:.4g}. Divided by E‖z‖ for d = {self.latent_dim} it is {mean:.2g} in two digits, by "
            f"√d {root:.2g}; the paper's tables print 0.016. For these K and d the quantiles from {100 * low:.2f} % to "
            f"{100 * high:.2f} % round to that. With JavaScript, or in a live notebook, you can move all three numbers."
        )

    def _picture(self) -> str:
        # A scale from 0 to 0.04; a number beyond it stands at its end.
        mean, root = (min(10_000 * value, 400.0) for value in self.relative)
        return (
            '<svg viewBox="-5 -5 410 60" width="410" height="60" style="max-width: 100%" role="img" aria-label="A '
            'scale from 0 to 0.04 with what rounds to 0.016, and the bound" fill="none" stroke="currentColor">'
            '<path d="M0 40H400M0 35V45M400 35V45"/><path d="M155 40H165" stroke-width="12" opacity="0.4"/>'
            f'<path d="M{mean:.1f} 5V38" stroke-width="3"/><path d="M{root:.1f} 5V38" stroke-dasharray="3"/></svg>'
        )
