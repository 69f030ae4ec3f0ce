"""A modulus of continuity and its generalised inverse, to play with."""

from __future__ import annotations

import math

import torch

from companion.smoothness import CircleModulus, Holder, Interpolated, Lipschitz, Modulus
from companion.widgets._base import Choice, Count, Number, Widget

# How far the circle is measured, in latent units.
_REACH = 0.8


class ModulusWidget(Widget):
    """A modulus ω, and how far a latent may move while the image is sure to stay within η: ω⁻¹(η).

    Args:
        kind: 'circle' (2 sin πt up to t = 1/2, then 2), 'lipschitz' (2πt), 'hoelder' (2√t), or 'staircase' (the
            circle's modulus, known at a few steps only).
        points: how many steps the staircase knows, from 1 to 16, equally spaced up to t = 0.8.
        eta: how far the image may move, from 0 to 2.2.

    Raises:
        ValueError: if a value is out of its range, now or when it is set later.

    Source: chapter on smoothness, `companion.smoothness`.
    """

    _module = "modulus"

    kind = Choice("circle", "lipschitz", "hoelder", "staircase")
    points = Count(6, 1, 16)
    eta = Number(1.0, 0, 2.2)

    def __init__(self, *, kind: str = "circle", points: int = 6, eta: float = 1.0):
        super().__init__(kind=kind, points=points, eta=eta)

    @property
    def modulus(self) -> Modulus:
        """ω, as it stands now."""
        if self.kind == "staircase":
            t = _REACH * torch.arange(1, self.points + 1, dtype=torch.float64) / self.points
            return Interpolated(t, CircleModulus()(t))
        return {"circle": CircleModulus(), "lipschitz": Lipschitz(2 * math.pi), "hoelder": Holder(2.0, 0.5)}[self.kind]

    @property
    def inverse(self) -> float:
        """ω⁻¹(η), in latent units; `inf` where no step moves the image by more than η."""
        return float(self.modulus.inverse(self.eta))

    def _sentence(self) -> str:
        if self.inverse == math.inf:
            promise = "no step in latent space, however long, moves the image by more"
        elif self.inverse == 0:
            promise = "no step in latent space, however short, is sure to keep the image that near"
        else:
            promise = f"latents less than {self.inverse:.3g} apart are sure to have images at most that far apart"
        return (
            f"A modulus of continuity ω (kind: {self.kind}) at the image distance η = {self.eta:g}: ω⁻¹(η) is "
            f"{'∞' if self.inverse == math.inf else format(self.inverse, '.3g')}, that is, {promise}. With JavaScript, "
            "or in a live notebook, you can drag η and choose the modulus."
        )

    def _picture(self) -> str:
        # 300 pixels for a latent step of 1.25, and as many for an image distance of 2.25.
        t = torch.linspace(0, 1.25, 251, dtype=torch.float64)
        omega = self.modulus(t).clamp(max=2.25).tolist()
        points = " ".join(f"{240 * x:.1f},{300 - y / 0.0075:.1f}" for x, y in zip(t.tolist(), omega, strict=True))
        height, end = 300 - self.eta / 0.0075, 240 * min(self.inverse, 1.25)
        return (
            '<svg viewBox="-5 -5 310 310" width="310" height="310" style="max-width: 100%" role="img" '
            'aria-label="A modulus over the latent step, and its inverse at one image distance" fill="none" '
            'stroke="currentColor"><path d="M0 0V300H300"/>'
            f'<polyline points="{points}" stroke-width="3"/>'
            f'<path d="M0 {height:.1f}H{end:.1f}V300" stroke-dasharray="6 4"/></svg>'
        )
