"""Theorem 3: how often one perturbation must fool several classifiers at once.

Write U_i for the latents that at least one of f_1, ..., f_k puts into class i, and δ for the probability that they do
not all agree. With t = ω⁻¹(η), Gaussian isoperimetry gives

    P(some ‖v‖ ≤ η changes every label f_j(g(z) + v)) ≥ 1 − δ − Σ_i ψ(ν(U_i)),    ψ(u) = Φ(Φ⁻¹(u) − t).

The functions here evaluate this bound for measured ν(U_i), its worst case over everything that (δ, p(f_1)) leaves
open, and the form in print; and they search the shortest perturbation that fools all classifiers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from companion import _validation as check
from companion._calls import full_precision, guarded
from companion._chunks import in_chunks
from companion._isoperimetric import latent_reach, weighted_bound
from companion._types import Model, Modulus, Numbers
from companion.attacks.margin import fooled, margin, margin_and_gradient
from companion.tightness import LinearPartition
from companion.vulnerability import clopper_pearson_upper


class Overlap(NamedTuple):
    """How the labels of several classifiers overlap: measured, or upper limits.

    Attributes:
        disagreement: one number, δ, the probability that not all labels are equal.
        class_unions: (K,), ν(U_i), the probability that at least one label is i.
    """

    disagreement: Tensor
    class_unions: Tensor


def transferable_fraction(
    eta: Numbers, disagreement: Numbers, class_probabilities: Numbers, modulus: Modulus, *, num_classifiers: int = 2
) -> Tensor:
    """Theorem 3, sharp: at least this fraction of the data has one perturbation that fools every classifier.

    For f and h it is Σ_i [Φ(a_i + t) − Φ(a_i)] − 2δ, the sum of (4) with δ added to the largest class probability;
    0 where that is negative. It needs no balance of the classes, and for K = 2, unless the larger p_i + δ exceeds 1, no
    larger bound holds.

    Args:
        eta: any shape, at least 0, in image units (`inf` allowed).
        disagreement: δ, one number in [0, 1], an upper bound on the probability that the labels are not all equal.
        class_probabilities: (K,) class probabilities of *one* of the classifiers, any of them, K ≥ 2, sum 1; from
            counts, those of `vulnerability.least_favourable`.
        modulus: the generator's modulus of continuity ω; only `modulus.inverse` is used.
        num_classifiers: k ≥ 1. For k > 2, δ is added to the min(k, K) − 1 largest classes.

    Returns:
        Fractions in [0, 1], shape and dtype of `eta`.

    Raises:
        ValueError: for negative or NaN `eta`, `disagreement` outside [0, 1], `class_probabilities` that are none.

    Source: after Fawzi et al. (2018), Theorem 3; sharp form and k > 2, own proofs (chapter on transferability).
    """
    eta = check.tensor("eta", eta, minimum=0.0, finite=False)
    delta = _disagreement(disagreement).to(eta.device)
    p = check.probabilities("class_probabilities", class_probabilities).to(device=eta.device, dtype=torch.float64)
    k = check.integer("num_classifiers", num_classifiers, minimum=1)
    largest = p.topk(min(k, p.numel()) - 1).indices
    added = torch.minimum(delta, 1 - p[largest])
    loss = delta + added.sum()
    return _overlap_bound(latent_reach(modulus, eta), p.index_add(0, largest, added), loss).to(eta.dtype)


def balanced_transferable_fraction(
    eta: Numbers, disagreement: Numbers, class_probabilities: Numbers, modulus: Modulus
) -> Tensor:
    """Theorem 3 as printed, for two classifiers: 1 − √(π/2) exp(−ω⁻¹(eta)²/2) − 2δ.

    Its condition p_i + δ ≤ 1/2 is checked: without it the bound is false. `transferable_fraction` is sharper and needs
    no condition. Negative values say nothing.

    Args:
        eta: any shape, at least 0, in image units.
        disagreement: δ, one number in [0, 1].
        class_probabilities: (K,) class probabilities of f; only to check the condition.
        modulus: the generator's modulus of continuity.

    Returns:
        Numbers up to 1, shape and dtype of `eta`.

    Raises:
        ValueError: also where max p_i + δ > 1/2.

    Source: Fawzi et al. (2018), Theorem 3.
    """
    eta = check.tensor("eta", eta, minimum=0.0, finite=False)
    delta = _disagreement(disagreement).to(eta.device)
    p = check.probabilities("class_probabilities", class_probabilities)
    largest = float(p.max()) + float(delta)
    if largest > 0.5 + torch.finfo(p.dtype).eps:
        raise ValueError(
            f"class_probabilities and disagreement must satisfy p_i + disagreement <= 1/2 for every i, got {largest:g};"
            " transferable_fraction needs no such condition"
        )
    t = latent_reach(modulus, eta)
    return (1 - math.sqrt(math.pi / 2) * torch.exp(-t.square() / 2) - 2 * delta).to(eta.dtype)


def overlap(labels: Numbers, num_classes: int, *, confidence: float | None = None) -> Overlap:
    """How the labels of k classifiers overlap, from their labels of the same sampled latents.

    Args:
        labels: (n, k) integers from 0 to K − 1: column j holds the labels of classifier j, n ≥ 1, k ≥ 2.
        num_classes: K ≥ 2. A class that no row shows still counts.
        confidence: None for the frequencies in the sample. Strictly between 0 and 1 for upper limits (Clopper and
            Pearson) that hold for δ and all K unions at once with this probability (Bonferroni).

    Returns:
        `Overlap` of float64 numbers.
    """
    labels, num_classes = torch.as_tensor(labels), check.integer("num_classes", num_classes, minimum=2)
    if labels.ndim != 2 or labels.shape[0] < 1 or labels.shape[1] < 2 or labels.is_floating_point():
        found = f"{tuple(labels.shape)} of {labels.dtype}"
        raise ValueError(f"labels must be integers of shape (n, k) with n >= 1 and k >= 2, got {found}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, got {int(labels.min())}..{int(labels.max())}")
    unions = torch.zeros(num_classes, dtype=torch.long, device=labels.device)
    for j, column in enumerate(labels.T):
        # A label counts once a row, in the first column that shows it.
        first = (labels[:, :j] != column[:, None]).all(1)
        unions += torch.bincount(column[first], minlength=num_classes)
    counts = torch.cat([(labels != labels[:, :1]).any(1).sum()[None], unions])
    if confidence is None:
        rates = counts.double() / len(labels)
    else:
        confidence = check.positive("confidence", check.fraction("confidence", confidence))
        each = 1 - (1 - confidence) / (num_classes + 1)
        rates = clopper_pearson_upper(counts, len(labels), confidence=each)
    return Overlap(rates[0], rates[1:])


def overlap_transferable_fraction(
    eta: Numbers, disagreement: Numbers, class_unions: Numbers, modulus: Modulus
) -> Tensor:
    """The sharper form of Theorem 3, for any number of classifiers: 1 − δ − Σ_i ψ(ν(U_i)), 0 where negative.

    It decreases in δ and in every ν(U_i): upper limits that hold jointly, as `overlap` returns for a `confidence`,
    give a bound that holds with that confidence, for all `eta` at once.

    Args:
        eta: any shape, at least 0, in image units (`inf` allowed).
        disagreement: δ, one number in [0, 1].
        class_unions: (K,) numbers ν(U_i) in [0, 1], K ≥ 2, sum at least 1.
        modulus: the generator's modulus of continuity ω; only `modulus.inverse` is used.

    Returns:
        Fractions in [0, 1], shape and dtype of `eta`.

    Source: own proof (chapter on transferability).
    """
    eta = check.tensor("eta", eta, minimum=0.0, finite=False)
    delta = _disagreement(disagreement).to(eta.device)
    unions = check.tensor("class_unions", class_unions, minimum=0.0).to(device=eta.device, dtype=torch.float64)
    if unions.ndim != 1 or unions.numel() < 2:
        raise ValueError(f"class_unions must have shape (K,) with K >= 2 classes, got shape {tuple(unions.shape)}")
    if unions.max() > 1:
        raise ValueError(f"class_unions must be at most 1, got {float(unions.max()):g}")
    excess = unions.sum() - 1
    if excess < -1e-6:
        raise ValueError(f"class_unions must sum to at least 1, got {float(unions.sum()):g}")
    return _overlap_bound(latent_reach(modulus, eta), unions, delta + excess).to(eta.dtype)


@overload
def joint_radius(
    classifiers: Sequence[Model],
    x: Numbers,
    pool: Numbers,
    *,
    starts: int = ...,
    steps: int = ...,
    start: Numbers | None = ...,
    chunk_size: int = ...,
    progress: bool = ...,
    return_witness: Literal[False] = False,
) -> Tensor: ...
@overload
def joint_radius(
    classifiers: Sequence[Model],
    x: Numbers,
    pool: Numbers,
    *,
    starts: int = ...,
    steps: int = ...,
    start: Numbers | None = ...,
    chunk_size: int = ...,
    progress: bool = ...,
    return_witness: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def joint_radius(
    classifiers: Sequence[Model],
    x: Numbers,
    pool: Numbers,
    *,
    starts: int = 16,
    steps: int = 30,
    start: Numbers | None = None,
    chunk_size: int = 128,
    progress: bool = False,
    return_witness: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The joint radius: the length of the shortest perturbation that changes the label of every classifier at once.

    On images it is the ‖v‖ of Theorem 3. With the classifiers f_j∘g (`robustness.compose`) and latents for `x` and
    `pool` it is the joint latent radius of the theorem's proof. That proof is also the search: it begins at the
    nearest points of `pool` where no classifier keeps its label. Each step goes to the nearest point of all linearised
    boundaries at once: the shortest perturbation may end where several boundaries meet.

    Args:
        classifiers: k ≥ 1 callables (n, *image) -> (n, K) logits, differentiable.
        x: (n, *image) points.
        pool: (m, *image) points to begin at, m ≥ 1, such as other images of the generator.
        starts: points of the pool for each row; the best quarter after five steps is followed to the end.
        steps: most gradients per classifier and followed start.
        start: None, or (n, *image) points that join the starts, such as images of latent witnesses.
        chunk_size: rows at a time, which bounds memory.
        progress: show a progress bar.
        return_witness: also return the points x + v.

    Returns:
        (n,) radii, `inf` where none was found; with `return_witness` also (n, *image) points, equal to `x` where none
        was found. Upper estimates; every row has been classified again by all classifiers.

    Source: definition, Fawzi et al. (2018), Theorem 3; method, own.
    """
    classifiers = _classifiers(classifiers)
    x = check.images("x", x).detach()
    pool = check.images("pool", pool).detach().to(x)
    if pool.shape[1:] != x.shape[1:] or not len(pool):
        raise ValueError(f"pool must hold points of the shape of x's, {tuple(x.shape[1:])}, got {tuple(pool.shape)}")
    starts = min(check.integer("starts", starts, minimum=1), len(pool))
    steps = check.integer("steps", steps, minimum=1)
    if start is not None:
        start = check.images("start", start).detach().to(x)
        if start.shape != x.shape:
            raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, got {tuple(start.shape)}")
    with contextlib.ExitStack() as stack:
        calls = []
        for j, classifier in enumerate(classifiers):
            call, x = stack.enter_context(guarded(f"classifiers[{j}]", classifier, x))
            calls.append(call)
        search = _joint_search(calls, x, pool.to(x), starts, steps, None if start is None else start.to(x))
        unfinished = torch.full_like(x.flatten(1)[:, 0], torch.nan), x
        chunk = check.integer("chunk_size", chunk_size, minimum=1)
        radius, witness = in_chunks(search, unfinished, chunk, progress, "joint radius")
    return (radius, witness) if return_witness else radius


def _joint_search(
    classifiers: Sequence[Model], x: Tensor, pool: Tensor, starts: int, steps: int, start: Tensor | None
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Row numbers (k,) -> joint radii and witnesses; searched in full precision, verified as the caller computes."""
    pool_labels = _labels(classifiers, pool) if len(x) else torch.zeros(0)

    def search(rows: Tensor) -> tuple[Tensor, Tensor]:
        part = x[rows]
        y = _labels(classifiers, part)
        with full_precision(x.device):
            witness = nearest(part, y, [] if start is None else [start[rows, None]])
        # Once more, and in another batch.
        again = _length(classifiers, part.flip(0), y.flip(0), witness.flip(0)).flip(0)
        radius = torch.maximum(_length(classifiers, part, y, witness), again)
        return radius, torch.where(_like(radius.isfinite(), part), witness, part)

    def nearest(part: Tensor, y: Tensor, begin: list[Tensor]) -> Tensor:
        distance = torch.cdist(part.flatten(1), pool.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        kept = (pool_labels == y[:, None]).any(2)
        near = distance.masked_fill(kept, torch.inf).topk(starts, largest=False).indices
        points = torch.cat([pool[near], *begin], dim=1)
        for budget, left in ((min(5, steps), max(1, points.shape[1] // 4)), (steps - 5, 1)):
            points = _shortened(classifiers, part, y, points, budget, left)
        return points[:, 0]

    return search


def exact_joint_radius(first: LinearPartition, second: LinearPartition, z: Numbers) -> Tensor:
    """The joint radius of two linear partitions, exactly: how far the points z are from fooling both.

    Where both labels differ is a union of wedges, each the intersection of two half-spaces: one class against the own
    one in either partition. The nearest point of a wedge lies on one face or on its edge.

    Args:
        first: a `LinearPartition` of R^d.
        second: another one.
        z: (n, d) points.

    Returns:
        (n,) distances, `inf` where no point fools both.

    Source: own proof (chapter on transferability).
    """
    for name, partition in (("first", first), ("second", second)):
        if not isinstance(partition, LinearPartition):
            raise ValueError(f"{name} must be a LinearPartition, got {partition!r}")
    if first.latent_dim != second.latent_dim:
        raise ValueError(f"second must have latent_dim = {first.latent_dim}, got {second.latent_dim}")
    z = check.latents(first, z)
    (a, u), (b, v) = (_half_spaces(partition, z) for partition in (first, second))
    a, b, cosine = a[:, :, None], b[:, None, :], u @ v.mT
    # √(1 − cosine²) without cancellation: half the product of the distances of the normals and of their opposites.
    apart, opposite = (torch.cdist(u, w, compute_mode="donot_use_mm_for_euclid_dist") for w in (v, -v))
    edge = torch.hypot((a - b) * opposite, (a + b) * apart) / (apart * opposite)
    on_face = torch.where(b <= cosine * a, a, b)
    alone = (b <= cosine * a) | (a <= cosine * b)
    distance = torch.where(alone, on_face, edge)
    return torch.where(distance.isnan(), torch.inf, distance).flatten(1).amin(1)


def _half_spaces(partition: LinearPartition, z: Tensor) -> tuple[Tensor, Tensor]:
    """For every class the distance (n, K) to where it beats the label of z, and the unit normal (n, K, d) there."""
    logits, weights = partition(z), partition.weights.to(z)
    best, label = logits.max(1)
    normal = weights - weights[label][:, None]
    length = normal.norm(dim=2)
    # The own class, and one of equal weights, is reached nowhere.
    distance = ((best[:, None] - logits) / length).masked_fill(length == 0, torch.inf)
    return distance, normal / length.clamp(min=torch.finfo(z.dtype).tiny)[..., None]


def _overlap_bound(t: Tensor, unions: Tensor, loss: Tensor) -> Tensor:
    """1 − δ − Σ ψ(u_i) as Σ [u_i − ψ(u_i)] − loss, loss = δ + (Σ u_i − 1): the terms of (4) keep their digits."""
    return (weighted_bound(t, unions, torch.ones_like(unions)) - loss).clamp(0, 1)


def _disagreement(value: Any) -> Tensor:
    number = check.tensor("disagreement", value).to(torch.float64)
    if number.numel() != 1 or not 0 <= number <= 1:
        raise ValueError(f"disagreement must be one number from 0 to 1, got {value!r}")
    return number.squeeze()


def _classifiers(value: Any) -> list[Model]:
    try:
        classifiers = list(value)
    except TypeError as error:
        raise ValueError(f"classifiers must be a sequence of classifiers, got {value!r}") from error
    if not classifiers:
        raise ValueError("classifiers must hold at least one classifier, got none")
    for j, classifier in enumerate(classifiers):
        check.network(f"classifiers[{j}]", classifier)
    return classifiers


def _labels(classifiers: Sequence[Model], x: Tensor) -> Tensor:
    """The labels (n, k) of n points."""
    with torch.no_grad():
        return torch.stack([check.classify(classifier, x.clone()).argmax(1) for classifier in classifiers], dim=1)


def _all_fooled(classifiers: Sequence[Model], x: Tensor, y: Tensor) -> Tensor:
    """Which rows (n,) of `x` every classifier safely puts into another class than its own label in `y` (n, k)."""
    verdicts = [fooled(classifier, x, label) for classifier, label in zip(classifiers, y.T, strict=True)]
    return torch.stack(verdicts).all(0)


def _length(classifiers: Sequence[Model], x: Tensor, y: Tensor, point: Tensor) -> Tensor:
    """‖point − x‖ for each row where all classifiers are fooled, else `inf`."""
    return torch.where(_all_fooled(classifiers, point, y), (point - x).flatten(1).norm(dim=1), torch.inf)


def _shortened(classifiers: Sequence[Model], x: Tensor, y: Tensor, points: Tensor, steps: int, left: int) -> Tensor:
    """Of the points (n, s, *image), after `steps` steps each, the `left` nearest to their row of `x`."""
    n, s = points.shape[:2]
    every, labels = x.repeat_interleave(s, 0), y.repeat_interleave(s, 0)
    moved = _descend(classifiers, every, labels, points.flatten(0, 1), steps)
    best = _length(classifiers, every, labels, moved).reshape(n, s).topk(left, largest=False).indices
    return moved.reshape(points.shape)[torch.arange(n, device=x.device)[:, None], best]


def _descend(classifiers: Sequence[Model], x: Tensor, y: Tensor, best: Tensor, steps: int) -> Tensor:
    """Points that fool all classifiers, ever nearer to `x`: each step solves the linearised joint problem."""
    best, step = best.clone(), x.new_ones(len(x))
    rows = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        rows = rows[step[rows] > 1e-3]
        if not len(rows):
            break
        clean, label, point = x[rows], y[rows], best[rows]
        found = [margin_and_gradient(c, point, own) for c, own in zip(classifiers, label.T, strict=True)]
        value = torch.stack([one[0] for one in found], 1)
        normals = torch.stack([one[2].flatten(1) for one in found], 1)
        offset = (point - clean).flatten(1)
        radius = offset.norm(dim=1)
        # Aim a little beyond the boundaries, so that rounding does not decide the verdict.
        aim = 1e-5 * radius[:, None] * normals.norm(dim=2)
        target = _shortest(normals, aim - value + (normals @ offset[..., None])[..., 0])
        trial = offset + step[rows, None] * (target - offset)
        # A correction along the same normals where the boundaries have curved away.
        with torch.no_grad():
            there = clean + trial.reshape(clean.shape)
            reached = [margin(c(there), own) for c, own in zip(classifiers, label.T, strict=True)]
        trial = trial + _shortest(normals, aim - torch.stack(reached, 1))
        there = clean + trial.reshape(clean.shape)
        accepted = (trial.norm(dim=1) < radius * (1 - 1e-7)) & _all_fooled(classifiers, there, label)
        best[rows[accepted]] = there[accepted]
        step[rows] = torch.where(accepted, (2 * step[rows]).clamp(max=1), step[rows] / 3)
    return best


def _shortest(normals: Tensor, missing: Tensor) -> Tensor:
    """The shortest move (n, m) with ⟨normal_j, move⟩ ≥ missing_j for all j, by coordinate ascent on the dual."""
    gram = normals @ normals.mT
    weight = torch.zeros_like(missing)
    for _ in range(50):
        for j in range(missing.shape[1]):
            short = missing[:, j] - (gram[:, j] * weight).sum(1)
            weight[:, j] = (weight[:, j] + short / gram[:, j, j]).clamp(min=0)
    return (weight[:, None] @ normals)[:, 0]


def _like(mask: Tensor, x: Tensor) -> Tensor:
    """A mask of rows (n,), shaped to broadcast over `x` (n, *image)."""
    return mask.reshape(-1, *[1] * (x.ndim - 1))
