"""How tight Theorem 1 is: the law of the latent radius r_Z for classifiers whose cells are known exactly.

A linear classifier on latent space cuts it into convex cells, and r_Z is the distance to the nearest
half-space where another class is ahead. So its law P(r_Z ≤ t) takes no attack: it is counted over millions of
latents, and for the regular simplex it is a one-dimensional integral. For the generator g(z) = Lz it is the
law of r_in at η = L t, to hold against the bound (4).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from companion import _validation as check
from companion._normal import density, upper_quantile
from companion._types import Numbers
from companion.vulnerability import clopper_pearson_upper

# Entries of a (latents, classes) table that are in memory at a time.
_TABLE_ENTRIES = 2**20
# Added to the seed of latents that something is fitted to.
_FITTING = 2**31
# Step of the trapezoidal rule: for these entire, fast-decaying integrands its error is below rounding.
_STEP = 1 / 64


class Law(NamedTuple):
    """A measured law: the fraction of radii up to t, with its confidence interval.

    Attributes:
        fraction: the measured P(r ≤ t), in the shape of t.
        low: lower end of the exact (Clopper-Pearson) two-sided interval, for each t by itself.
        high: upper end of it.
    """

    fraction: Tensor
    low: Tensor
    high: Tensor


class LinearPartition:
    """The classifier on latent space with logits ⟨w_i, z⟩ + b_i; its cells are convex polyhedra.

    Calling it maps latents of shape (n, d) to logits of shape (n, K).

    Args:
        weights: (K, d), one row w_i a class, K ≥ 2, d ≥ 1.
        biases: (K,), by default 0.

    Attributes:
        weights: (K, d).
        biases: (K,).
        num_classes: K.
        latent_dim: d.

    Raises:
        ValueError: for other shapes, and for entries that are not finite.
    """

    def __init__(self, weights: Numbers, biases: Numbers | None = None) -> None:
        self.weights = check.tensor("weights", weights)
        if self.weights.ndim != 2 or self.weights.shape[0] < 2 or self.weights.shape[1] < 1:
            raise ValueError(f"weights must have shape (K, d) with K >= 2 and d >= 1, got {tuple(self.weights.shape)}")
        self.num_classes, self.latent_dim = self.weights.shape
        biases = self.weights.new_zeros(self.num_classes) if biases is None else biases
        self.biases = check.tensor("biases", biases).to(self.weights)
        if self.biases.shape != (self.num_classes,):
            raise ValueError(f"biases must have shape ({self.num_classes},), got {tuple(self.biases.shape)}")

    def __call__(self, z: Tensor) -> Tensor:
        return z @ self.weights.to(z).T + self.biases.to(z)

    def __repr__(self) -> str:
        return f"LinearPartition(num_classes={self.num_classes}, latent_dim={self.latent_dim})"


def half_space(latent_dim: int, *, probability: float = 0.5) -> LinearPartition:
    """A half-space and its complement, K = 2: the classifier that attains (4), whatever its probability.

    Args:
        latent_dim: d ≥ 1.
        probability: of class 1, the half-space; strictly between 0 and 1.
    """
    latent_dim = check.integer("latent_dim", latent_dim, minimum=1)
    offset = upper_quantile(_one_fraction("probability", probability))
    weights = torch.zeros(2, latent_dim, dtype=torch.float64)
    weights[:, 0] = torch.tensor([-1.0, 1.0])
    return LinearPartition(weights, torch.stack([offset, -offset]))


def simplex_partition(num_classes: int, latent_dim: int | None = None) -> LinearPartition:
    """The Voronoi cells of a regular simplex: K classes of equal probability, each next to every other.

    Of all partitions into K classes of equal probability it has the smallest perimeter, and so, to first
    order in t, the fewest points within t of another class. For K ≥ 3 and t > 0 there is always a better one.

    Args:
        num_classes: K ≥ 2.
        latent_dim: d ≥ K − 1, by default K − 1. The cells do not depend on the further coordinates.

    Source: Milman & Neeman (2022) for the perimeter; own proof (chapter on tightness) for t > 0.
    """
    num_classes = check.integer("num_classes", num_classes, minimum=2)
    latent_dim = num_classes - 1 if latent_dim is None else check.integer("latent_dim", latent_dim, minimum=1)
    if latent_dim < num_classes - 1:
        raise ValueError(f"latent_dim must be at least num_classes - 1 = {num_classes - 1}, got {latent_dim}")
    # Helmert's orthonormal basis of the vectors of sum zero; in it the corners e_i − 1/K are the columns.
    k = torch.arange(1, num_classes, dtype=torch.float64)
    corners = torch.ones(num_classes, num_classes - 1, dtype=torch.float64).triu()
    corners[1:] -= torch.diag(k)
    corners = corners / (k * (k + 1) * (1 - 1 / num_classes)).sqrt()
    return LinearPartition(torch.nn.functional.pad(corners, (0, latent_dim - num_classes + 1)))


def random_partition(num_classes: int, latent_dim: int, *, seed: int = 0) -> LinearPartition:
    """A linear classifier with independent standard normal weights and biases; `balanced` evens its cells.

    Args:
        num_classes: K ≥ 2.
        latent_dim: d ≥ 1.
        seed: seeds the draw.
    """
    num_classes = check.integer("num_classes", num_classes, minimum=2)
    latent_dim = check.integer("latent_dim", latent_dim, minimum=1)
    draws = torch.Generator("cpu").manual_seed(seed)
    weights = torch.randn(num_classes, latent_dim, generator=draws, dtype=torch.float64)
    return LinearPartition(weights, torch.randn(num_classes, generator=draws, dtype=torch.float64))


def balanced(
    partition: LinearPartition, class_probabilities: Numbers | None = None, *, samples: int = 2**16, seed: int = 0
) -> LinearPartition:
    """The same weights with biases that give every class its share of N(0, I), by default equal shares.

    Args:
        partition: a `LinearPartition`, its weights all different.
        class_probabilities: (K,) positive probabilities, by default 1/K each.
        samples: latents that the biases are fitted to; the shares are off by the sampling error of as many.
        seed: seeds these latents. They are others than those of the functions that measure, also for the same seed:
            what was fitted to a sample must not be measured on it.

    Warns:
        RuntimeWarning: if the shares did not come within the sampling error.
    """
    reduced = _reduced(partition)
    samples = check.integer("samples", samples, minimum=1)
    logits = torch.cat([reduced(z) for z in _latents(reduced, samples, _FITTING + seed)])
    biases = reduced.biases + balancing_biases(logits, class_probabilities)
    return LinearPartition(partition.weights, biases)


def balancing_biases(logits: Numbers, class_probabilities: Numbers | None = None) -> Tensor:
    """Numbers to add to the logits of any classifier so that every class gets its share of the sample.

    They minimise the convex E max_i (logit_i + b_i) − Σ p_i b_i, whose gradient is the frequencies less the
    shares. The maximum is replaced by a soft one that sharpens, and each minimised by damped Newton steps.

    Args:
        logits: (n, K) logits of n sampled points.
        class_probabilities: (K,) positive shares, by default 1/K each.

    Returns:
        (K,) biases of mean 0.

    Raises:
        ValueError: for logits of another shape, and for shares that are none or not positive.

    Warns:
        RuntimeWarning: if some share is off by more than five times its sampling error, as where two classes
            always have the same logits.

    Source: dual of semi-discrete optimal transport.
    """
    logits = check.tensor("logits", logits).detach()
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2:
        raise ValueError(f"logits must have shape (n, K) with n >= 1 and K >= 2, got {tuple(logits.shape)}")
    n, num_classes = logits.shape
    p = [1 / num_classes] * num_classes if class_probabilities is None else class_probabilities
    p = check.probabilities("class_probabilities", p).to(device=logits.device, dtype=torch.float64)
    if p.numel() != num_classes or (p == 0).any():
        raise ValueError(f"class_probabilities must hold {num_classes} positive numbers, got {p.tolist()}")
    biases, scores = torch.zeros_like(p), logits.to(torch.float64)
    spread = (scores - scores.mean(1, keepdim=True)).std(correction=0).clamp(min=1e-300)
    error = (p * (1 - p) / n).sqrt() + 1 / n
    for width in (spread * 4.0**-k for k in range(10)):
        biases = _soft_balance(scores, p, biases, width)
        off = (torch.bincount((scores + biases).argmax(1), minlength=num_classes) / n - p).abs()
        if (off < error / 2).all():
            break
    if (off > 5 * error).any():
        message = f"balancing_biases: a class probability is off by {float(off.max()):.1e}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return (biases - biases.mean()).to(logits.dtype)


def _soft_balance(scores: Tensor, p: Tensor, biases: Tensor, width: Tensor) -> Tensor:
    """The minimiser b of the mean of width·logsumexp((scores + b)/width) − p·b, by Newton from `biases`."""

    def objective(b: Tensor) -> Tensor:
        return width * ((scores + b) / width).logsumexp(1).mean() - p @ b

    value = objective(biases)
    for _ in range(50):
        chance = ((scores + biases) / width).softmax(1)
        mean = chance.mean(0)
        slope = mean - p
        if slope.abs().max() < 1e-6:
            break
        curvature = (mean.diag() - chance.T @ chance / len(chance)) / width
        # Adding a constant to all biases changes nothing: `ones` removes that freedom, 1e-9 its rounding.
        ones, ridge = torch.ones_like(curvature), torch.eye(len(p)).to(curvature)
        step = torch.linalg.solve(curvature + (ones + 1e-9 * ridge) * curvature.diagonal().mean(), slope)
        scale = 1.0
        while (trial := objective(biases - scale * step)) > value and scale > 1e-6:
            scale /= 2
        if scale <= 1e-6:
            break
        biases, value = biases - scale * step, trial
    return biases


def exact_latent_radius(partition: LinearPartition, z: Numbers) -> Tensor:
    """The latent radius r_Z of each z, exactly: min over j of (logit_i − logit_j)/‖w_i − w_j‖, i its class.

    Args:
        partition: a `LinearPartition`.
        z: (n, d) latents.

    Returns:
        (n,) distances to the nearest point of another class, `inf` where there is no other class.

    Raises:
        ValueError: if `z` has not shape (n, d).

    Source: own proof (chapter on tightness): whatever is not class i is a union of half-spaces.
    """
    z = check.latents(_checked(partition), z)
    logits = partition(z)
    best, label = logits.max(1)
    weights = partition.weights.to(z)
    apart = torch.cdist(weights, weights, compute_mode="donot_use_mm_for_euclid_dist")[label]
    return ((best[:, None] - logits) / apart).masked_fill(apart == 0, torch.inf).amin(1)


def class_probabilities(partition: LinearPartition, *, samples: int = 10**6, seed: int = 0) -> Tensor:
    """The class frequencies (K,) of a linear partition under N(0, I), over `samples` latents.

    Estimates: each is off by about √(p(1 − p)/samples). `vulnerability.least_favourable` makes counts safe.
    """
    reduced = _reduced(partition)
    samples = check.integer("samples", samples, minimum=1)
    parts = _latents(reduced, samples, seed)
    counts = sum(torch.bincount(reduced(z).argmax(1), minlength=partition.num_classes) for z in parts)
    return torch.as_tensor(counts).double() / samples


def latent_law(
    partition: LinearPartition, t: Numbers, *, samples: int = 10**6, seed: int = 0, confidence: float = 0.95
) -> Law:
    """The law P(r_Z ≤ t) of a linear partition under N(0, I_d), counted over `samples` latents.

    r_Z depends on z only through the at most K − 1 directions in which the weights differ, so only these
    coordinates are drawn: time and memory do not depend on d, and memory not on `samples`.

    Args:
        partition: a `LinearPartition`.
        t: any shape, at least 0, in latent units; for a modulus ω use t = ω⁻¹(η).
        samples: number of latents.
        seed: seeds the draw.
        confidence: of the interval, strictly between 0 and 1.

    Returns:
        `Law`, each entry in the shape of `t`.
    """
    t = check.tensor("t", t, minimum=0.0, finite=False)
    samples = check.integer("samples", samples, minimum=1)
    reduced = _reduced(partition)
    return _law((exact_latent_radius(reduced, z) for z in _latents(reduced, samples, seed)), t, confidence)


def empirical_law(radii: Numbers, t: Numbers, *, confidence: float = 0.95) -> Law:
    """The law P(r ≤ t) of radii that were measured, on independent points, by an attack or otherwise.

    Args:
        radii: (n,) radii, n ≥ 1, at least 0; `inf` where none was found.
        t: any shape, at least 0, in the units of `radii`.
        confidence: of the interval, strictly between 0 and 1.

    Returns:
        `Law`, each entry in the shape of `t`. Radii found by attack are upper estimates: the true law is no
        lower.
    """
    radii = check.tensor("radii", radii, minimum=0.0, finite=False)
    t = check.tensor("t", t, minimum=0.0, finite=False)
    if radii.ndim != 1 or not len(radii):
        raise ValueError(f"radii must have shape (n,) with n >= 1, got {tuple(radii.shape)}")
    return _law([radii], t, confidence)


def simplex_law(t: Numbers, num_classes: int) -> Tensor:
    """The law P(r_Z ≤ t) of `simplex_partition`, exactly: 1 − K ∫ φ(x) Φ(x − √2 t)^(K−1) dx.

    That is also 1 − exp(−t²) E exp(−√2 t M), M the largest of K standard normal numbers. The latent dimension
    does not enter, and the law is at most the bound (4) at √2 t. Absolute error about 1e-14; differentiable in `t`.

    Args:
        t: any shape, at least 0, in latent units (`inf` allowed).
        num_classes: K ≥ 2.

    Returns:
        Fractions in [0, 1], shape and dtype of `t`.

    Source: own proof (chapter on tightness).
    """
    t = check.tensor("t", t, minimum=0.0, finite=False)
    num_classes = check.integer("num_classes", num_classes, minimum=2)
    # Beyond 40 nothing is left; the clamp keeps infinities out of the gradients.
    shift = math.sqrt(2) * t.to(torch.float64).flatten().clamp(max=40.0)
    parts = [_leading(part, num_classes, num_classes - 1) for part in shift.split(512)]
    return (1 - num_classes * torch.cat(parts)).clamp(0, 1).reshape(t.shape).to(t.dtype)


def simplex_perimeter(num_classes: int) -> Tensor:
    """The total Gaussian perimeter of the cells of `simplex_partition`: √2 E M, M the largest of K normal numbers.

    It is the slope of P(r_Z ≤ t) at t = 0, the smallest possible with K classes of equal probability if d ≥ K − 1,
    and equal to K(K − 1)/√(2π) ∫ φ(s) Φ(s/√2)^(K−2) ds.

    Args:
        num_classes: K ≥ 2.

    Source: own computation; minimality, Milman & Neeman (2022).
    """
    num_classes = check.integer("num_classes", num_classes, minimum=2)
    pairs = num_classes * (num_classes - 1) / math.sqrt(2 * math.pi)
    shift = torch.zeros(1, dtype=torch.float64)
    return pairs * _leading(shift, num_classes, num_classes - 2, math.sqrt(0.5))[0]


def half_space_perimeter(class_probabilities: Numbers) -> Tensor:
    """The total Gaussian perimeter Σ_i φ(a_i), a_i = Φ⁻¹(1 − p_i), of half-spaces of these probabilities.

    It is the slope of the bound (4) at t = 0: no partition has a smaller perimeter, and none with three or more classes
    of positive probability attains it.

    Args:
        class_probabilities: (K,) probabilities, K ≥ 2, sum 1.
    """
    p = check.probabilities("class_probabilities", class_probabilities)
    inner = p[(p > 0) & (p < 1)].to(torch.float64)
    return density(upper_quantile(inner)).sum().to(p.dtype)


def perimeter(partition: LinearPartition, *, samples: int = 2**14, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The total Gaussian perimeter of the cells, each boundary counted from both sides, with standard error.

    It is the slope of P(r_Z ≤ t) at t = 0. For every pair of classes the latents are projected on the
    hyperplane where the two tie, and the hyperplane's density counts where no third class is ahead.

    Args:
        partition: a `LinearPartition`, its weights all different.
        samples: latents, each used for all K(K−1)/2 pairs; at least 2.
        seed: seeds the draw.
    """
    reduced = _reduced(partition)
    samples = check.integer("samples", samples, minimum=2)
    total = squares = reduced.weights.new_zeros(())
    for z in _latents(reduced, samples, seed):
        found = z.new_zeros(len(z))
        logits = reduced(z)
        for i in range(reduced.num_classes):
            for j in range(i):
                found += 2 * _facet(reduced, logits, i, j)
        total, squares = total + found.sum(), squares + found.square().sum()
    mean = total / samples
    return mean, ((squares / samples - mean.square()).clamp(min=0) / (samples - 1)).sqrt()


def _facet(partition: LinearPartition, logits: Tensor, i: int, j: int) -> Tensor:
    """For each latent, the density φ of the tie of i and j if its projection lies on their facet, else 0."""
    normal = partition.weights[i] - partition.weights[j]
    length = normal.norm()
    if length == 0:
        return logits.new_zeros(len(logits))
    lead = logits[:, i] - logits[:, j]
    # A step of −lead/length along the unit normal brings a latent to the tie, and moves every logit.
    tied = logits - torch.outer(lead / length, partition.weights @ normal / length)
    others = torch.cat([tied[:, :j], tied[:, j + 1 : i], tied[:, i + 1 :]], dim=1)
    ahead = (others > tied[:, [i]]).any(1)
    return density((partition.biases[i] - partition.biases[j]) / length) * ~ahead


def _leading(shift: Tensor, num_classes: int, power: int, scale: float = 1.0) -> Tensor:
    """∫ φ(x) Φ(scale·x − shift)^power dx for each of (n,) shifts, by the trapezoidal rule."""
    end = 10 + math.sqrt(2 * math.log(num_classes)) + (float(shift.detach().max()) if len(shift) else 0.0)
    x = torch.arange(-10.0, end, _STEP, dtype=torch.float64, device=shift.device)
    chance = (power * torch.special.log_ndtr(scale * x - shift[:, None]) - x.square() / 2).exp().sum(1)
    return chance * _STEP / math.sqrt(2 * math.pi)


def _reduced(partition: LinearPartition) -> LinearPartition:
    """The partition in the coordinates on which it depends: the span of the differences of its weights."""
    weights = _checked(partition).weights
    left, values, _ = torch.linalg.svd(weights - weights.mean(0), full_matrices=False)
    rank = int((values > values[0] * max(weights.shape) * torch.finfo(weights.dtype).eps).sum())
    # All weights equal: one coordinate that changes nothing.
    rank = max(rank, 1)
    return LinearPartition(left[:, :rank] * values[:rank], partition.biases)


def _latents(partition: LinearPartition, samples: int, seed: int) -> Iterator[Tensor]:
    """`samples` latents z ~ N(0, I), drawn on the CPU, a table at a time."""
    draws = torch.Generator("cpu").manual_seed(seed)
    rows, weights = max(1, _TABLE_ENTRIES // partition.num_classes), partition.weights
    for start in range(0, samples, rows):
        shape = (min(rows, samples - start), partition.latent_dim)
        yield torch.randn(shape, generator=draws, dtype=weights.dtype, device="cpu").to(weights.device)


def _law(parts: Iterable[Tensor], t: Tensor, confidence: float) -> Law:
    """The law over all radii in `parts`, each (n,), counted as they come."""
    confidence = float(_one_fraction("confidence", confidence))
    levels, order = t.detach().flatten().to(torch.float64).sort()
    counts, samples = levels.new_zeros(len(levels) + 1, dtype=torch.long), 0
    for radii in parts:
        # searchsorted finds the first level that a radius does not exceed.
        first = torch.searchsorted(levels, radii.to(levels).contiguous())
        counts += torch.bincount(first, minlength=len(counts))
        samples += len(radii)
    hits = torch.empty_like(order).scatter(0, order, counts[:-1].cumsum(0))
    tail = 1 - (1 - confidence) / 2
    high = clopper_pearson_upper(hits, samples, confidence=tail)
    low = 1 - clopper_pearson_upper(samples - hits, samples, confidence=tail)
    return Law(*(end.reshape(t.shape).to(t) for end in (hits.double() / samples, low, high)))


def _checked(partition: Any) -> LinearPartition:
    if not isinstance(partition, LinearPartition):
        raise ValueError(f"partition must be a LinearPartition, got {partition!r}")
    return partition


def _one_fraction(name: str, value: Any) -> Tensor:
    number = check.fraction(name, value)
    if number.numel() != 1:
        raise ValueError(f"{name} must be one number, got shape {tuple(number.shape)}")
    return number.to(torch.float64).squeeze()
