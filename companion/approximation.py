"""Theorem 4: what is left when the generator only approximates the real images.

Let μ be the law of generated and μ' that of real images. For every classifier r_unc changes by at most ‖x − x'‖
from x to x', so its mean changes by at most the Wasserstein distance W₁(μ, μ') from one law to the other:

    E_{x~μ'} r_unc(x) ≤ E_{x~μ} r_unc(x) + W₁(μ, μ') ≤ ω(√(2/π)) + W₁(μ, μ')

for a concave modulus ω, and classes of at most one half each for the constant. W₁ between samples is computed exactly,
with the pairing that attains it, a function that certifies it, and the room to leave for chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import roots_legendre
from torch import Tensor

from companion import _validation as check
from companion._isoperimetric import distinct, image_reach
from companion._normal import density, upper_quantile
from companion._types import Modulus, Numbers
from companion.vulnerability import expected_latent_radius

# Entries of a distance table that are in memory at a time.
_TABLE_ENTRIES = 2**22


class Transport(NamedTuple):
    """The cheapest way to carry one sample of images to another.

    Attributes:
        distance: W₁ of the two samples, one number in image units; differentiable in the images.
        partner: (m,) for each image of the first sample its partner, an index into the second.
    """

    distance: Tensor
    partner: Tensor


def expected_robustness(modulus: Modulus, wasserstein: Numbers, class_probabilities: Numbers) -> Tensor:
    """Theorem 4: no classifier of these probabilities has a larger mean r_unc on real images than ω(E) + W₁.

    E bounds the mean latent radius (`vulnerability.expected_latent_radius`): √(2/π) for two equally likely classes,
    less for more classes, more if one class has over half of the mass.

    Args:
        modulus: the generator's modulus of continuity ω, concave: Jensen's inequality needs it.
        wasserstein: any shape, at least 0, W₁ between generated and real images or an upper bound on it.
        class_probabilities: (K,) probabilities of the classes on generated images, K ≥ 2, sum 1.

    Returns:
        Mean radii in image units, shape and dtype of `wasserstein`; `inf` if one class has all the mass.

    Raises:
        ValueError: for negative or NaN `wasserstein`, for `class_probabilities` that are none, and for a modulus seen
            not to be concave: Jensen needs a line through (E, ω(E)) that lies above ω, and on a grid of t from 0
            to 1000 E there is none. Between the points of the grid, concavity is yours to promise; for other moduli
            there is `expected_in_distribution_radius`.

    Source: Fawzi et al. (2018), section 3.
    """
    wasserstein = check.tensor("wasserstein", wasserstein, minimum=0.0, finite=False)
    centre = expected_latent_radius(class_probabilities).to(torch.float64)
    if centre.isinf():
        return torch.full_like(wasserstein, torch.inf)
    value = image_reach(modulus, centre)
    if value.isfinite():
        steps = torch.logspace(-3, 0, 61, dtype=torch.float64, device=centre.device)[:-1]
        t = centre.detach() * torch.cat([steps.new_zeros(1), steps, 1 / steps.flip(0)])
        slope = (image_reach(modulus, t) - value) / (t - centre)
        steepest, flattest = slope[t > centre].max(), slope[t < centre].min()
        if steepest > flattest + 1e-9 * value / centre:
            raise ValueError(
                f"modulus must be concave, but {modulus!r} is steeper beyond t = {float(centre):.3g} than before; "
                "expected_in_distribution_radius(modulus, class_probabilities) + wasserstein needs no concavity"
            )
    return (value.to(wasserstein.device) + wasserstein).to(wasserstein.dtype)


def expected_in_distribution_radius(modulus: Modulus, class_probabilities: Numbers) -> Tensor:
    """An upper bound on the mean of r_in for every modulus, concave or not: ∫ ω(t) Σ_i φ(a_i + t) dt.

    It is E ω(T) for the T ≥ 0 whose distribution function is the bound (4) of Theorem 1. For a concave ω it is at most
    ω(E T), the first term of `expected_robustness`, with equality for `Lipschitz`. Plus W₁ it bounds the mean
    of r_unc on real images.

    Args:
        modulus: the generator's modulus of continuity; increasing.
        class_probabilities: (K,) probabilities of the classes on generated images, K ≥ 2, sum 1.

    Returns:
        A number in image units, by quadrature: relative error about 1e-6 if ω has kinks, near rounding if not. `inf`
        if one class has all the mass, or where ω is `inf`.

    Source: own proof (chapter on approximation).
    """
    p = check.probabilities("class_probabilities", class_probabilities)
    if (p == 1).any():
        return p.new_tensor(torch.inf)
    p64, count = distinct(p[p > 0].to(torch.float64))
    a = upper_quantile(p64)
    # Beyond 40 − a_i nothing is left. With t = s², a root at t = 0, as Hölder's, is no obstacle.
    end = math.sqrt(40 + max(0.0, -float(a.detach().min())))
    nodes, weights = (torch.as_tensor(part, device=a.device) for part in roots_legendre(10))
    panel = end / 2048
    s = (panel * (torch.arange(2048, device=a.device)[:, None] + (1 + nodes) / 2)).flatten()
    parts = s.square().split(max(1, _TABLE_ENTRIES // len(a)))
    slope = torch.cat([density(a + part[:, None]) @ count for part in parts])
    chance = panel * s * weights.repeat(2048) * slope
    reach = image_reach(modulus, s.square())
    return torch.where(chance > 0, reach * chance, 0.0).sum().to(p.dtype)


def transport(first: Numbers, second: Numbers) -> Transport:
    """W₁ between two samples, exactly: every image gets a partner, and the mean distance is the least possible.

    Args:
        first: (m, *image) images; m a multiple of n, so that every image of `second` gets m/n partners.
        second: (n, *image) images, n ≥ 1.

    Returns:
        `Transport(distance, partner)`. Memory grows with m² and time with up to m³: a second or two for
        m = 2,000, and ten times that for m = 4,500.

    Raises:
        ValueError: for samples of other shapes, empty ones, and sizes that do not divide.

    Source: the assignment problem; an optimal plan between such samples is a pairing (Birkhoff's theorem).
    """
    first, second = _two_samples(first, second)
    cost = _distances(first.detach(), second.detach())
    columns = cost.repeat_interleave(len(first) // len(second), dim=1)
    _, chosen = linear_sum_assignment(columns.cpu().numpy())
    partner = torch.as_tensor(chosen, device=first.device) // (len(first) // len(second))
    distance = (first - second[partner]).flatten(1).norm(dim=1).mean()
    return Transport(distance, partner)


def critic(first: Numbers, second: Numbers, partner: Numbers) -> Callable[[Tensor], Tensor]:
    """The witness that no pairing is cheaper: a function h of images that grows no faster than distance.

    h(x) = min_j (‖x − second_j‖ + v_j) is 1-Lipschitz for any numbers v. Those of the dual problem make its means
    differ by W₁ of the two samples: `h(first).mean() - h(second).mean() == distance`. On fresh samples, which had no
    part in choosing h, the difference of the means is on average at most W₁ of the laws.

    Args:
        first: (m, *image) images.
        second: (n, *image) images.
        partner: (m,) indices into `second`, as `transport` returns them.

    Returns:
        A function, images (k, *image) -> (k,) numbers in image units.

    Raises:
        ValueError: for samples that `transport` refuses, and if `partner` is not a cheapest pairing.

    Source: Kantorovich duality; the numbers v are shortest paths in the graph of possible exchanges.
    """
    first, second = _two_samples(first, second)
    first, second = first.detach(), second.detach()
    partner = check.labels("partner", partner, first)
    share = len(first) // len(second)
    if (torch.bincount(partner, minlength=len(second)) != share).any():
        raise ValueError(f"partner must give each of the {len(second)} images of second {share} partners")
    cost = _distances(first, second)
    # exchange[j, k]: what it costs to move the best-suited partner of j to k instead.
    extra = cost - cost.gather(1, partner[:, None])
    index = partner[:, None].expand_as(extra)
    exchange = extra.new_full((len(second), len(second)), torch.inf).scatter_reduce(0, index, extra, "amin")
    values = cost.new_zeros(len(second))
    for _ in range(len(second) + 1):
        shorter = (values + exchange).amin(1)
        # Sums of rounded distances differ in their last digits.
        if (shorter >= values - 1e-12 * cost.max()).all():
            break
        values = shorter
    else:
        raise ValueError("partner must be a cheapest pairing, got one that an exchange makes cheaper")

    def lipschitz(x: Numbers) -> Tensor:
        x = _alike("x", x, second)
        rows = max(1, _TABLE_ENTRIES // len(second))
        found = [(_distances(part, second) + values).amin(1) for part in x.split(rows)]
        return torch.cat(found).to(x.dtype)

    return lipschitz


def deviation(diameter: Numbers, sizes: Numbers, *, confidence: float = 0.95) -> Tensor:
    """How far a mean over independent images, or W₁ of samples of them, may be on one side of its expectation.

    D √(ln(1/α)/2 · Σ 1/n_k), α = 1 − confidence. It holds for every function of the samples that moves by at most D/n_k
    when one image of the k-th sample is replaced: W₁ to any sample or law, means of a 1-Lipschitz function such as
    r_unc or a `critic`, differences of such means.

    Args:
        diameter: D, at least 0, the largest distance of two possible images: √m for m pixels in [0, 1].
        sizes: the sample size n, or the sizes n_k of several independent samples.
        confidence: of the one-sided statement, strictly between 0 and 1.

    Returns:
        A number in image units, shape and dtype of `diameter`.

    Source: McDiarmid (1989); for a mean it is Hoeffding's (1963).
    """
    diameter = check.tensor("diameter", diameter, minimum=0.0)
    confidence = check.positive("confidence", check.fraction("confidence", confidence))
    counts = check.tensor("sizes", sizes, minimum=1.0).to(torch.float64).flatten()
    if not len(counts) or (counts != counts.round()).any():
        raise ValueError(f"sizes must be one or more integers of at least 1, got {counts.tolist()}")
    return diameter * math.sqrt(-math.log1p(-confidence) / 2 * (1 / counts).sum().item())


def _distances(first: Tensor, second: Tensor) -> Tensor:
    """The Euclidean distances (m, n) in float64, by differences: equal images are exactly 0 apart."""
    one, other = (images.flatten(1).to(torch.float64) for images in (first, second))
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _alike(name: str, value: Any, like: Tensor) -> Tensor:
    images = check.images(name, value)
    if images.shape[1:] != like.shape[1:]:
        expected = ", ".join(map(str, like.shape[1:]))
        raise ValueError(f"{name} must hold images of shape ({expected}), got {tuple(images.shape[1:])}")
    return images.to(like.device)


def _two_samples(first: Numbers, second: Numbers) -> tuple[Tensor, Tensor]:
    second = check.images("second", second)
    first = _alike("first", first, second)
    if not len(second) or not len(first) or len(first) % len(second):
        raise ValueError(
            f"first must hold as many images as second, or a multiple of that, at least 1; got {len(first)} and "
            f"{len(second)}"
        )
    return first, second
