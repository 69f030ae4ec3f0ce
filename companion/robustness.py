"""The three robustness radii of a point x = g(z), measured by attack.

    latent            r_Z(z)   = min ‖r‖             s.t. f(g(z + r)) ≠ f(g(z))
    in-distribution   r_in(x)  = min ‖g(z + r) − x‖  s.t. f(g(z + r)) ≠ f(x)           (deck equation 2)
    unconstrained     r_unc(x) = min ‖r‖             s.t. f(x + r) ≠ f(x)              (deck equation 3)

Always r_unc ≤ r_in ≤ ω(r_Z). An attack finds points that are adversarial, not that no nearer one exists: every radius
here is an upper estimate, `inf` where none was found. Each comes with its witness, which is classified again at the
end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from companion import _validation as check
from companion.attacks.margin import fooled, margin, margin_and_gradient
from companion.attacks.minimal import minimal_l2
from companion.smoothness import jacobian


class Radii(NamedTuple):
    """The three radii of n points, with their witnesses.

    Attributes:
        latent: (n,) r_Z, latent units.
        in_distribution: (n,) r_in, image units.
        unconstrained: (n,) r_unc, image units.
        latent_witness: (n, latent_dim), the z + r of r_Z.
        in_distribution_witness: (n, latent_dim), the z + r of r_in; its norm tells whether it left the prior's mass.
        unconstrained_witness: (n, *image), the x + r of r_unc.
    """

    latent: Tensor
    in_distribution: Tensor
    unconstrained: Tensor
    latent_witness: Tensor
    in_distribution_witness: Tensor
    unconstrained_witness: Tensor


def compose(generator, classifier):
    """The classifier f∘g on latent space, (n, latent_dim) -> (n, K); attacking it measures r_Z.

    Raises:
        ValueError: if `generator` or `classifier` is not one, or is in training mode.
    """
    check.latent_dim(generator)
    check.network("classifier", classifier)

    def composed(z: Tensor) -> Tensor:
        return classifier(generator(z))

    return composed


def radii(
    generator,
    classifier,
    z,
    *,
    steps: int = 100,
    metric_steps: int = 60,
    bounds=None,
    max_latent_norm: float | None = None,
    chunk_size: int = 512,
    progress: bool = False,
) -> Radii:
    """All three radii of the points g(z), each search starting from the witness of the one before.

    So r_unc ≤ r_in ≤ ‖g(z + r) − g(z)‖ at the latent witness, for every row, by construction.

    Args:
        generator: the generator g.
        classifier: the classifier f.
        z: (n, latent_dim) latents.
        steps: gradients per row for each of the attacks on f∘g and on f.
        metric_steps: steps along the data manifold per row, as of `in_distribution_radius`.
        bounds: None, or the pixel box (low, high) of the unconstrained attack.
        max_latent_norm: None, or the largest ‖z + r‖ allowed to the in-distribution witness.
        chunk_size: rows at a time, which bounds memory.
        progress: show a progress bar.

    Returns:
        `Radii` of n rows.
    """
    z = check.latents(generator, z).detach()
    options = dict(steps=steps, chunk_size=chunk_size, progress=progress, return_witness=True)
    latent, latent_witness = latent_radius(generator, classifier, z, **options)
    in_distribution, in_witness = in_distribution_radius(
        generator,
        classifier,
        z,
        metric_steps=metric_steps,
        max_latent_norm=max_latent_norm,
        start=latent_witness,
        **options,
    )
    x, on_manifold = _images(generator, z, chunk_size), _images(generator, in_witness, chunk_size)
    unconstrained, witness = unconstrained_radius(classifier, x, bounds=bounds, start=on_manifold, **options)
    return Radii(latent, in_distribution, unconstrained, latent_witness, in_witness, witness)


def latent_radius(
    generator,
    classifier,
    z,
    *,
    steps: int = 100,
    chunk_size: int = 512,
    progress: bool = False,
    return_witness: bool = False,
):
    """The latent radius r_Z: the smallest latent step that changes the label, found by `attacks.minimal_l2` on f∘g.

    Args:
        generator: the generator g.
        classifier: the classifier f.
        z: (n, latent_dim) latents.
        steps: gradients per row.
        chunk_size: rows at a time, which bounds memory.
        progress: show a progress bar.
        return_witness: also return the points z + r.

    Returns:
        (n,) radii in latent units, `inf` where none was found; with `return_witness` also (n, latent_dim) points,
        equal to `z` where none was found.
    """
    z = check.latents(generator, z).detach()
    composed = compose(generator, classifier)
    if len(z):
        check.classify(classifier, check.generate(generator, z[:1]))

    def search(part: Tensor) -> tuple[Tensor, Tensor]:
        y = _labels(composed, part)
        witness = minimal_l2(composed, part, y, steps=steps)
        return _verified((witness - part).norm(dim=1), composed, witness, y), witness

    radius, witness = _in_chunks(search, (z,), chunk_size, progress, "latent radius")
    return (radius, witness) if return_witness else radius


def in_distribution_radius(
    generator,
    classifier,
    z,
    *,
    steps: int = 100,
    metric_steps: int = 60,
    max_latent_norm: float | None = None,
    start=None,
    seed: int = 0,
    chunk_size: int = 512,
    progress: bool = False,
    return_witness: bool = False,
):
    """The in-distribution radius r_in: the smallest image change along the generator's range that changes the label.

    Image distances near z are measured by the pull-back metric JᵀJ of the generator. In coordinates in which it is the
    identity, r_in is an ordinary L2 radius: the first three metric steps are `attacks.minimal_l2` there, the first in
    the metric at z, the others in the mean of it and that at the witness found so far, with ever less damping.

    The other steps follow the image distance itself: each minimises its Gauss-Newton model on the linearised boundary
    of f∘g, with Levenberg-Marquardt damping and a Newton correction back over the boundary. If they are 18 or more, six
    searches begin, one at the witness and five where the way to samples of the prior that lie near in the image and in
    another class crosses the boundary; after a third of these steps three go on, after another the best.

    Args:
        generator: the generator g, differentiable in forward mode.
        classifier: the classifier f.
        z: (n, latent_dim) latents.
        steps: gradients per row of the latent search for a start.
        metric_steps: steps in the pull-back metric per row, all searches together; each costs a Jacobian (latent_dim
            forward passes), the first three 12 gradients more.
        max_latent_norm: None, or R > 0: only witnesses with ‖z + r‖ ≤ R count. The unrestricted optimum may lie
            where the prior has no mass.
        start: None, or (n, latent_dim) points to start from instead of a latent search, such as latent witnesses.
        seed: seeds the samples of the prior.
        chunk_size: rows at a time, which bounds memory.
        progress: show a progress bar.
        return_witness: also return the points z + r.

    Returns:
        (n,) radii in image units, `inf` where none was found; with `return_witness` also (n, latent_dim) points.

    Source: definition, Fawzi et al. (2018), equation (2); method, own.
    """
    z = check.latents(generator, z).detach()
    composed = compose(generator, classifier)
    metric_steps = check.integer("metric_steps", metric_steps, minimum=0)
    if max_latent_norm is not None:
        max_latent_norm = check.positive("max_latent_norm", max_latent_norm)
    if len(z):
        check.classify(classifier, check.generate(generator, z[:1]))
    if start is None:
        start = latent_radius(
            generator, classifier, z, steps=steps, chunk_size=chunk_size, progress=progress, return_witness=True
        )[1]
    start = check.latents(generator, start, "start").to(z)
    if start.shape != z.shape:
        raise ValueError(f"start must have the shape of z, {tuple(z.shape)}, got {tuple(start.shape)}")

    leaps = min(metric_steps, len(_DAMPING))
    # Six searches of a few steps each, then three, then one; the first costs a third of the steps, and so the second.
    laps = (metric_steps - leaps) // 18
    pool = _pool(generator, composed, z, max_latent_norm, seed, chunk_size) if laps and len(z) else None

    def search(part: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
        y = _labels(composed, part)
        if leaps:
            begin = _leap(generator, composed, part, y, begin, leaps, max_latent_norm)
        points = begin[:, None]
        if pool:
            points = torch.cat([points, _crossings(generator, composed, part, y, pool, 5)], dim=1)
        points = _into_ball(points.flatten(0, 1), max_latent_norm).view_as(points)
        rounds = [(points.shape[1], laps), (min(3, points.shape[1]), 2 * laps)] if pool else []
        left = metric_steps - leaps - sum(size * steps for size, steps in rounds)
        distance = None
        for size, steps in [*rounds, (1, left)]:
            if distance is not None:
                # Searches that end at the same point tie but for rounding: the earlier one wins, in every batch.
                handicap = 1 + 1e-5 * torch.arange(distance.shape[1], device=z.device)
                kept = (distance * handicap).topk(size, dim=1, largest=False).indices
                points = points.gather(1, kept[..., None].expand(-1, -1, points.shape[2]))
            many, label = part.repeat_interleave(size, 0), y.repeat_interleave(size)
            found = points.flatten(0, 1).clone()
            # Whatever has another label counts, however close: a start that an attack has found is never lost.
            known = torch.nonzero(_labels(composed, found) != label)[:, 0]
            found[known] = _descend(
                generator, composed, many[known], label[known], found[known], steps, max_latent_norm
            )
            distance = torch.full_like(many[:, 0], torch.inf)
            distance[known] = _image_distance(generator, many[known], found[known])
            points, distance = found.view_as(points), distance.view(-1, size)
        witness = torch.where(distance.isfinite(), points[:, 0], part)
        return _verified(_image_distance(generator, part, witness), composed, witness, y), witness

    radius, witness = _in_chunks(search, (z, start), chunk_size, progress, "in-distribution radius")
    return (radius, witness) if return_witness else radius


def unconstrained_radius(
    classifier,
    x,
    *,
    steps: int = 100,
    bounds=None,
    start=None,
    chunk_size: int = 512,
    progress: bool = False,
    return_witness: bool = False,
):
    """The unconstrained radius r_unc: the smallest perturbation of the image itself that changes the label.

    Args:
        classifier: the classifier f.
        x: (n, *image) images.
        steps: gradients per row of `attacks.minimal_l2`.
        bounds: None, as in the definition, or the pixel box (low, high).
        start: None, or (n, *image) points, such as in-distribution witnesses; adversarial ones are improved on.
        chunk_size: rows at a time, which bounds memory.
        progress: show a progress bar.
        return_witness: also return the points x + r.

    Returns:
        (n,) radii in image units, `inf` where none was found; with `return_witness` also (n, *image) points.
    """
    check.network("classifier", classifier)
    x = check.images("x", x).detach()
    if len(x):
        check.classify(classifier, x[:1])
    if start is not None:
        start = check.images("start", start).to(x)
        if start.shape != x.shape:
            raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, got {tuple(start.shape)}")

    def search(part: Tensor, *begin: Tensor) -> tuple[Tensor, Tensor]:
        y = _labels(classifier, part)
        witness = minimal_l2(classifier, part, y, steps=steps, bounds=bounds, start=begin[0] if begin else None)
        return _verified((witness - part).flatten(1).norm(dim=1), classifier, witness, y), witness

    columns = (x,) if start is None else (x, start)
    radius, witness = _in_chunks(search, columns, chunk_size, progress, "unconstrained radius")
    return (radius, witness) if return_witness else radius


# The share of its mean eigenvalue that is added to the metric of each leap: much while it is known at z alone.
_DAMPING = (1e-1, 1e-2, 1e-3)


def _leap(generator, composed, z: Tensor, y: Tensor, start: Tensor, leaps: int, max_norm) -> Tensor:
    """The nearest in the image of `start` and of what up to three searches in the pull-back metric find."""

    def inside(points: Tensor) -> Tensor:
        return composed(_into_ball(points, max_norm))

    best = _into_ball(start, max_norm)
    distance = torch.where(_labels(composed, best) != y, _image_distance(generator, z, best), torch.inf)
    metric = at_z = _metric(generator, z)
    for damping in _DAMPING[:leaps]:
        if damping < _DAMPING[0]:
            metric = (at_z + _metric(generator, best)) / 2
        # A row without a metric, where the generator has no derivative, is passed over.
        damped = _damped(metric, damping).nan_to_num(0.0, 0.0, 0.0)
        found = _into_ball(minimal_l2(inside, z, y, steps=12, start=best, metric=damped), max_norm)
        reached = _image_distance(generator, z, found)
        better = fooled(composed, found, y) & (reached < distance)
        best, distance = torch.where(better[:, None], found, best), torch.where(better, reached, distance)
    return best


def _metric(generator, z: Tensor) -> Tensor:
    """The pull-back metric JᵀJ of the generator, (n, d, d)."""
    matrix = _jacobian(generator, z)
    return matrix.mT @ matrix


def _damped(metric: Tensor, damping) -> Tensor:
    """The metrics (n, d, d) plus `damping`, a number or (n,), times their mean eigenvalues: JᵀJ may be singular."""
    mean = metric.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(metric.dtype).tiny)
    return metric + torch.diag_embed((damping * mean)[:, None].expand(-1, metric.shape[1]))


def _jacobian(generator, z: Tensor) -> Tensor:
    """The Jacobians, on a processor for so few rows at a time that their tangents fit its caches."""
    rows = max(1, 400 // z.shape[1] if z.device.type == "cpu" else len(z))
    return torch.cat([jacobian(generator, part) for part in z.split(rows)])


def _descend(generator, composed, z: Tensor, y: Tensor, start: Tensor, steps: int, max_norm) -> Tensor:
    """Points over the boundary with ever smaller image distance to g(z), from the adversarial points `start`."""
    best = start.clone()
    with torch.no_grad():
        target = generator(z).flatten(1)
        distance = (generator(best).flatten(1) - target).norm(dim=1)
    damping, rounding = torch.full_like(distance, 1e-3), torch.finfo(z.dtype).eps
    rows = torch.arange(len(z), device=z.device)
    for _ in range(steps):
        if not len(rows):
            break
        point, label = best[rows], y[rows]
        value, _, normal = margin_and_gradient(composed, point, label)
        matrix = _jacobian(generator, point)
        with torch.no_grad():
            error = generator(point).flatten(1) - target[rows]
        metric = _damped(matrix.mT @ matrix, damping[rows])
        pull = torch.stack([-(matrix.mT @ error[..., None])[..., 0], normal], dim=2)
        solved = torch.linalg.solve_ex(metric, pull)[0]
        free, along = solved[..., 0], solved[..., 1]
        curvature = (normal * along).sum(1).clamp(min=torch.finfo(z.dtype).tiny)
        aim = 1e-5 * (normal * (point - z[rows])).sum(1).abs()
        step = free + along * ((aim - value - (normal * free).sum(1)).clamp(min=0) / curvature)[:, None]
        trial = _into_ball(point + step, max_norm)
        for _ in range(2):
            with torch.no_grad():
                missing = aim - margin(composed(trial), label)
            trial = _into_ball(trial + along * (missing.clamp(min=0) / curvature)[:, None], max_norm)
        with torch.no_grad():
            reached = (generator(trial).flatten(1) - target[rows]).norm(dim=1)
        # NaN from a singular solve compares false and is rejected.
        better = (reached < distance[rows] * (1 - rounding)) & fooled(composed, trial, label)
        gain = torch.where(better, 1 - reached / distance[rows], 0.0)
        best[rows[better]] = trial[better]
        distance[rows[better]] = reached[better]
        damping[rows] = torch.where(better, (damping[rows] / 4).clamp(min=1e-9), damping[rows] * 6)
        rows = rows[(damping[rows] < 1e6) & ~(better & (gain < 8 * rounding))]
    return best


# Samples of the prior among which the in-distribution search looks for starts.
_POOL = 1000


def _pool(generator, composed, z: Tensor, max_norm, seed: int, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of the prior, inside the ball if there is one, with their images (flat) and labels."""
    draws = torch.randn(_POOL, z.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(z)
    draws = _into_ball(draws, max_norm)
    label = _in_chunks(lambda part: (_labels(composed, part),), (draws,), chunk_size, False, "labels")[0]
    return draws, _images(generator, draws, chunk_size).flatten(1), label


def _crossings(generator, composed, z: Tensor, y: Tensor, pool, count: int) -> Tensor:
    """Where the ways from each z (n, d) to the nearest samples of at most `count` other classes leave its class.

    Near means near in the image; the crossing is found by bisection in Z. A row for which the pool has too few classes
    gets points that are not adversarial.
    """
    draws, images, label = pool
    with torch.no_grad():
        distance = torch.cdist(generator(z).flatten(1), images, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = [distance.masked_fill((label != k) | (y == k)[:, None], torch.inf).min(1) for k in label.unique()]
    order = torch.stack([entry.values for entry in nearest], 1).topk(min(count, len(nearest)), largest=False).indices
    far = draws[torch.stack([entry.indices for entry in nearest], 1).gather(1, order)]
    many, label = z[:, None].expand_as(far).flatten(0, 1), y.repeat_interleave(far.shape[1])
    low, high, way = torch.zeros_like(many[:, :1]), torch.ones_like(many[:, :1]), far.flatten(0, 1) - many
    for _ in range(10):
        middle = (low + high) / 2
        over = fooled(composed, many + middle * way, label)[:, None]
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (many + high * way).view_as(far)


def _image_distance(generator, z: Tensor, other: Tensor) -> Tensor:
    with torch.no_grad():
        return (generator(other) - generator(z)).flatten(1).norm(dim=1)


def _into_ball(z: Tensor, max_norm: float | None) -> Tensor:
    """The points z, those outside the ball of radius `max_norm` moved radially to its surface."""
    if max_norm is None:
        return z
    return torch.where(z.norm(dim=1, keepdim=True) > max_norm, max_norm * (1 - 1e-6) * normalize(z, dim=1), z)


def _labels(classifier, x: Tensor) -> Tensor:
    with torch.no_grad():
        return check.classify(classifier, x).argmax(1)


def _verified(radius: Tensor, classifier, witness: Tensor, y: Tensor) -> Tensor:
    """The radii whose witness is indeed classified otherwise; `inf` for the rest."""
    return torch.where(_labels(classifier, witness) != y, radius, torch.inf)


def _images(generator, z: Tensor, chunk_size: int) -> Tensor:
    with torch.no_grad():
        if not len(z):
            return check.generate(generator, z)
        return _in_chunks(lambda part: (check.generate(generator, part),), (z,), chunk_size, False, "images")[0]


def _in_chunks(search, columns: tuple[Tensor, ...], chunk_size: int, progress: bool, name: str):
    """`search` on `chunk_size` rows at a time, what it returns put together again; an empty batch is returned.

    Where the device runs out of memory, the chunk is halved and tried again; what was found before is kept.
    """
    chunk_size = check.integer("chunk_size", chunk_size, minimum=1)
    first = columns[0]
    if not len(first):
        return first.new_zeros(0), first
    found, done = [], 0
    with tqdm(total=len(first), desc=name, disable=not progress) as bar:
        while done < len(first):
            part = [column[done : done + chunk_size] for column in columns]
            try:
                found.append(search(*part))
            except torch.OutOfMemoryError:
                if len(part[0]) == 1:
                    raise
                chunk_size = len(part[0]) // 2
                continue
            done += len(part[0])
            bar.update(len(part[0]))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))
