"""Theorem 2: project to the data manifold first, then classify.

    f̃(x) = f(g(z*)),  z* = argmin_z ‖g(z) − x‖

For any classifier f and any point x = g(z):  ½ r_in(f; x) ≤ r_unc(f̃; x) ≤ r_in(f; x). Of the projection the
proof needs only that it lands no farther from x + r than x itself lies. That can be checked at each point
(`witness`), and a numerical projection has it, up to rounding, where x is among its starts (`warm_start`).
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import grad, jvp

from companion import _validation as check
from companion._calls import Composed, Guarded, full_precision, guarded, out_of_memory, working
from companion._types import Model, Numbers
from companion.smoothness import jacobian


class Projection(NamedTuple):
    """The points of a generator's range nearest to n images.

    Attributes:
        latent: (n, latent_dim), z*; differentiable in the images.
        residual: (n,) ‖g(z*) − x‖, image units; a report, without gradient.
    """

    latent: Tensor
    residual: Tensor


class Witness(NamedTuple):
    """What the proof of Theorem 2 makes of n adversarial images x + r of f̃.

    Attributes:
        latent: (n, latent_dim), z*, the projection of x + r.
        distance: (n,) ‖g(z*) − x‖, image units, where f changes at g(z*), else `inf`. Whatever the projection
            is worth, r_in(f; x) ≤ distance ≤ ‖r‖ + residual.
        residual: (n,) ‖g(z*) − (x + r)‖, image units.
        certified: (n,) whether f changes at g(z*) and residual ≤ ‖r‖ (1 + 64 ε), ε the relative rounding error of the
            dtype of x. Then distance ≤ 2‖r‖ (1 + 32 ε). It is a statement about the images and labels as g and f
            compute them, here and now: lengths are taken in float64, so no cancellation blurs a small ‖r‖. Where it
            is false though f changes, nothing is proved: the projection has failed, or rounding decides.
    """

    latent: Tensor
    distance: Tensor
    residual: Tensor
    certified: Tensor


class ProjectedClassifier:
    """The classifier f̃(x) = f(g(z*)) of Theorem 2.

    Calling it maps images (n, *image) to logits (n, K), each row by itself. Its gradient is that of the exact
    projection, by the implicit function theorem: dz*/dx = H⁻¹Jᵀ, with J the Jacobian of g at z* and the whole
    Hessian H = JᵀJ + Σ_k (g(z*) − x)_k ∇²g_k. (Gauss-Newton drops the sum, right only on the manifold.)

    Where g offers no projection of its own, local searches (BFGS) seek z* from the nearest images of a pool
    of latents. No search moves away from x, but for rounding, and for a linear g it is exact, likewise;
    for others it may end in a local minimum, and the residual is an upper estimate of the distance.

    Generator and classifier may be anybody's, as for the radii of `companion.robustness`: they get copies, so that they
    may work in place, and the images in their own precision. (A generator with labels bound for n rows has no pool.)

    Args:
        generator: the generator g; where f̃ is to have a gradient, differentiable twice by `torch.func`, which rules out
            fused attention. If it has a method `project(x) -> z`, that is used.
        classifier: the classifier f.
        starts: searches per image.
        steps: most gradients per search.
        pool: latents drawn from the prior N(0, I), the same for every image.
        warm_start: None, or (m, latent_dim) latents to join the pool. At their images f̃ = f and Theorem 2
            holds for this f̃, up to rounding, however badly the searches do.
        seed: seeds the pool.
        chunk_size: searches at a time; by default as many as keep their Jacobians below about 256 MB.

    Raises:
        ValueError: if `generator` or `classifier` is none or in training mode, or an option is out of range; at a call,
            if the generator is random, without gradients, or lets the rows of a batch hang together.

    Source: Fawzi et al. (2018), Theorem 2; method and gradient, own.
    """

    def __init__(
        self,
        generator: Model,
        classifier: Model,
        *,
        starts: int = 4,
        steps: int = 100,
        pool: int = 4096,
        warm_start: Numbers | None = None,
        seed: int = 0,
        chunk_size: int | None = None,
    ) -> None:
        dim = check.latent_dim(generator)
        check.network("classifier", classifier)
        self.generator, self.classifier = generator, classifier
        self._starts = check.integer("starts", starts, minimum=1)
        self._steps = check.integer("steps", steps, minimum=1)
        self._chunk_size = None if chunk_size is None else check.integer("chunk_size", chunk_size, minimum=1)
        size = (check.integer("pool", pool, minimum=1), dim)
        draws = torch.Generator("cpu").manual_seed(check.integer("seed", seed, minimum=0))
        self._latents = torch.randn(size, generator=draws, dtype=torch.float64, device="cpu")
        if warm_start is not None:
            warm_start = check.latents(generator, warm_start, "warm_start").detach()
            self._latents = torch.cat([warm_start.to(self._latents), self._latents])
        self._trusted = False
        self._pool: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        z = self.project(x).latent
        return check.classify(Guarded("classifier", Composed(self.generator, self.classifier), z.dtype), z)

    def project(self, x: Numbers) -> Projection:
        """The latents z* nearest to the images x (n, *image), and how near they are."""
        x = check.images("x", x)
        with full_precision(x.device), self._called(x) as call:
            # A method, not a layer that happens to have the name.
            offered = inspect.ismethod(getattr(self.generator, "project", None))
            wide = working(x.detach().clone().to(call.dtype))
            z = self._offered(wide.to(call.dtype)) if offered else self._searched(call, wide)
            image = check.generate(call, working(z))
            _like_generated(x, image)
            residual = (image - wide).flatten(1).norm(dim=1).to(z.dtype)
        if x.requires_grad and torch.is_grad_enabled():
            z = _Nearest.apply(x, z, self._called)  # type: ignore[no-untyped-call]
        return Projection(z, residual)

    @contextlib.contextmanager
    def _called(self, x: Tensor) -> Iterator[Guarded]:
        """The generator, called as for images in the precision and on the device of `x`; tried out the first time."""
        options = dict(generates=True, trusted=self._trusted)
        with guarded("generator", self.generator, self._latents.to(x.detach()), **options) as (call, _):
            self._trusted = True
            yield call

    def witness(self, x: Numbers, adversarial: Numbers) -> Witness:
        """The in-distribution witness that the proof of Theorem 2 draws from an adversarial image of f̃.

        Args:
            x: (n, *image) points of the data manifold, x = g(z), at which f̃ = f.
            adversarial: (n, *image) points x + r, such as an attack on f̃ returns.

        Returns:
            `Witness` of n rows. No attack on f̃, however good, contradicts the theorem where it is certified:
            it finds that r_in(f; x) was smaller than thought.
        """
        x = check.images("x", x).detach()
        adversarial = _second_image("adversarial", adversarial, x)
        latent = self.project(adversarial).latent
        with self._called(x) as call, guarded("classifier", self.classifier, x, trusted=True) as (classifier, _):
            image = call(latent)
            label, found = (check.classify(classifier, point).argmax(1) for point in (x, image))
        length, distance, residual = (
            (end.double() - begin.double()).flatten(1).norm(dim=1)
            for begin, end in ((x, adversarial), (x, image), (adversarial, image))
        )
        # Relative to ‖r‖: a tolerance relative to ‖x‖ would certify any witness of a short enough r.
        certified = (found != label) & (residual <= length * (1 + 64 * torch.finfo(x.dtype).eps))
        distance = torch.where(found != label, distance, torch.inf)
        return Witness(latent, distance.to(x), residual.to(x), certified)

    def _offered(self, x: Tensor) -> Tensor:
        generator: Any = self.generator
        z = generator.project(x.clone())
        found = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        if found != (len(x), generator.latent_dim) or not torch.isfinite(z).all():
            expected = f"({len(x)}, {generator.latent_dim})"
            raise ValueError(f"generator.project must return finite latents of shape {expected}, got {found}")
        return z.to(x)

    def _searched(self, call: Guarded, x: Tensor) -> Tensor:
        if self._pool is None or self._pool[0].dtype != x.dtype or self._pool[0].device != x.device:
            latents = self._latents.to(x)
            made = [check.generate(call, part) for part in latents.split(1024)]
            self._pool = latents, torch.cat(made)
        latents, images = self._pool
        _like_generated(x, images)
        dim, starts = latents.shape[1], min(self._starts, len(latents))
        # A Jacobian holds `latent_dim` images.
        size = self._chunk_size or max(1, 2**28 // (images[:1].nbytes * dim))
        found = [x.new_zeros(0, dim)]
        for part in x.flatten(1).split(max(1, size // starts)):
            # By differences: from inner products, the distance of an image to itself would not be zero.
            distance = torch.cdist(part, images.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
            nearest = distance.topk(starts, largest=False).indices.flatten()
            targets = part.repeat_interleave(starts, 0)
            z, value = _descend(call, targets, latents[nearest], self._steps)
            winner = value.reshape(-1, starts).argmin(1)
            found.append(z.reshape(-1, starts, dim)[torch.arange(len(part), device=z.device), winner])
        return torch.cat(found).to(call.dtype)


def project(generator: Model, x: Numbers, **options: Any) -> Projection:
    """The points of the range of a generator nearest to given images: z* = argmin_z ‖g(z) − x‖.

    Args:
        generator: the generator g.
        x: (n, *image) images; `latent` is differentiable in them.
        **options: `starts`, `steps`, `pool`, `warm_start`, `seed`, `chunk_size` of `ProjectedClassifier`.

    Returns:
        `Projection(latent, residual)` of n rows.
    """
    return ProjectedClassifier(generator, lambda image: image, **options).project(x)


def shortcut(projected: ProjectedClassifier, x: Numbers, latent: Numbers, *, halvings: int = 12) -> Tensor:
    """Adversarial images of f̃ off the manifold, nearer than the in-distribution witnesses they are made from.

    Near a witness x' = g(z'), the points of the normal space all project to x'. The one nearest to x is the
    foot of a perpendicular. Where it is too far from x' for that, bisection moves it to x' until f̃ changes.

    Args:
        projected: f̃.
        x: (n, *image) points of the data manifold.
        latent: (n, latent_dim) latents z' with f(g(z')) ≠ f(x), such as `in_distribution_radius` returns.
        halvings: bisection steps, each a projection.

    Returns:
        (n, *image) images x + r, f̃(x + r) ≠ f̃(x) where f̃(x') ≠ f̃(x); other rows are those of `x`.
    """
    given = check.images("x", x).detach()
    latent = check.latents(projected.generator, latent, "latent").detach()
    halvings = check.integer("halvings", halvings, minimum=0)

    def weight(value: Tensor) -> Tensor:
        return value.reshape(-1, *[1] * (given.ndim - 1))

    if len(latent) != len(given):
        raise ValueError(f"latent must have as many rows as x, {len(given)}, got {len(latent)}")
    with projected._called(given) as call:
        x = working(given.clone())
        latent = latent.to(x)
        image = check.generate(call, latent)
        _like_generated(x, image)
        back = (x - image).flatten(1)
        tangents = torch.linalg.qr(jacobian(call, latent))[0]
        along = (tangents @ (tangents.mT @ back[..., None]))[..., 0]
        foot = image + (back - along).reshape(x.shape)
        label = projected(x).argmax(1)
        low, high = back.new_zeros(len(x)), torch.where(projected(foot).argmax(1) != label, 0.0, 1.0).to(x)
        for _ in range(halvings):
            middle = (low + high) / 2
            over = projected(torch.lerp(foot, image, weight(middle))).argmax(1) != label
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        result = torch.lerp(foot, image, weight(high)).to(given.dtype)
        fooled = projected(result).argmax(1) != label
    return torch.where(weight(fooled), result, given)


def unconstrained_lower_bound(in_distribution: Numbers, *, reach: Numbers = 0.0) -> Tensor:
    """The radius r_unc(f̃; x) that Theorem 2 guarantees, from r_in(f; x).

    It is ½ r_in. If the data manifold has reach τ (a ball of radius τ rolls around it everywhere) it is more:
    r_in √(1 − (r_in/2τ)²) up to r_in = τ, (√3/2) τ up to r_in = √3 τ. A flat manifold, τ = ∞, loses nothing.

    Args:
        in_distribution: r_in, any shape, at least 0; an upper estimate of r_in gives no guarantee.
        reach: τ, at least 0, `inf` allowed; broadcasts. The circle's is 1.

    Returns:
        Lower bounds on r_unc(f̃; x), in image units.

    Source: Fawzi et al. (2018), Theorem 2; with reach, own proof.
    """
    radius = check.tensor("in_distribution", in_distribution, minimum=0.0, finite=False)
    reach = check.tensor("reach", reach, minimum=0.0, finite=False).to(radius)
    near = radius <= reach
    share = torch.where(near & (reach > 0) & reach.isfinite(), radius / (2 * reach), 0.0)
    middle = torch.where(radius <= math.sqrt(3) * reach, math.sqrt(3) / 2 * reach, radius / 2)
    return torch.where(near, radius * torch.sqrt(1 - share.square()), middle)


class _Nearest(torch.autograd.Function):
    """The minimum z*(x), found elsewhere, with its derivative.

    Jᵀ(g(z*) − x) = 0 holds for every x. Its derivative along x is H dz* − Jᵀ dx = 0, so dz*/dx = H⁻¹Jᵀ.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor, called: Any) -> Tensor:
        ctx.save_for_backward(x, z)
        ctx.called = called
        return z.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, z = ctx.saved_tensors
        with ctx.called(x) as call:
            target, point = working(x.to(z.dtype)), working(z)

            def half_square(point: Tensor) -> Tensor:
                return (call(point) - target).square().sum() / 2

            values, vectors = torch.linalg.eigh(jacobian(grad(half_square), point))
            # Nothing passes where z* is no strict minimum: a flat generator, an unfinished search.
            inverse = torch.where(values > 1e-9 * values[:, -1:], 1 / values, 0.0)
            direction = (vectors @ (inverse[..., None] * (vectors.mT @ gradient.to(point)[..., None])))[..., 0]
            return _moved(call, point, direction).to(x), None, None


def _moved(call: Guarded, z: Tensor, direction: Tensor) -> Tensor:
    """The products of the Jacobians at z (n, d) with directions (n, d): how the images move."""
    try:
        return jvp(call, (z,), (direction,))[1]
    except (RuntimeError, NotImplementedError) as error:
        if out_of_memory(error):
            raise
        # Where there is no forward mode.
        product = jacobian(call, z) @ direction[..., None]
        return product.reshape(call(z).shape)


def _descend(call: Guarded, x: Tensor, z: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Points of lower ½‖g(z) − x‖² than the starts `z`, for flat images `x`, and these values.

    BFGS: it starts from the Gauss-Newton metric JᵀJ and learns the curvature of g, which matters off the
    manifold. A step that does not descend enough is tried again at a quarter of its length.
    """
    rows = torch.arange(len(x), device=x.device)
    value, slope = _half_square(call, z, x)
    best, lowest = z.clone(), value.clone()
    matrix = jacobian(call, z)
    metric = matrix.mT @ matrix
    # Damping relative to the metric's mean eigenvalue: JᵀJ may be singular.
    mean = metric.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(x.dtype).tiny)
    inverse = torch.linalg.inv_ex(metric + torch.diag_embed((1e-3 * mean)[:, None].expand_as(z)))[0]
    length, eps = torch.ones_like(value), torch.finfo(x.dtype).eps
    scale = x.square().sum(1) + value
    for _ in range(steps):
        direction = -(inverse @ slope[..., None])[..., 0]
        # By the quadratic model, the square of the image move that is still ahead.
        ahead = -(slope * direction).sum(1)
        going = (ahead > eps ** (4 / 3) * scale) & (length > 1e-9)
        if not going.all():
            state = (rows, x, z, value, slope, inverse, length, scale, direction, ahead)
            rows, x, z, value, slope, inverse, length, scale, direction, ahead = (part[going] for part in state)
        if not len(rows):
            break
        step = length[:, None] * direction
        reached, there = _half_square(call, z + step, x)
        # Rounding may hide the last gains; NaN compares false.
        down = reached <= value * (1 + 4 * eps) - 1e-4 * length * ahead
        bend = there - slope
        along = (step * bend).sum(1)
        learn = down & (along > 1e-9 * step.norm(dim=1) * bend.norm(dim=1))
        inverse = torch.where(learn[:, None, None], _bfgs(inverse, step, bend, along), inverse)
        z, slope = (torch.where(down[:, None], new, old) for new, old in ((z + step, z), (there, slope)))
        value = torch.where(down, reached, value)
        length = torch.where(down, 1.0, length / 4)
        best[rows], lowest[rows] = z, value
    return best, lowest


def _half_square(call: Guarded, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """½‖g(z) − x‖² (n,) for flat images `x`, and its gradient in z."""

    def objective(images: Tensor, chosen: slice) -> Tensor:
        return (images.flatten(1) - x[chosen]).square().sum(1)[None] / 2

    images, slope = call.gradients(z, torch.arange(len(z), device=z.device), objective)
    return objective(images, slice(None))[0], slope[0]


def _bfgs(inverse: Tensor, step: Tensor, bend: Tensor, along: Tensor) -> Tensor:
    """Inverse Hessians (n, d, d), corrected to map the change of slope `bend` to the `step` that made it."""
    image = (inverse @ bend[..., None])[..., 0]
    weight = (1 + (bend * image).sum(1) / along) / along
    cross = image[:, :, None] * step[:, None, :] / along[:, None, None]
    return inverse + weight[:, None, None] * step[:, :, None] * step[:, None, :] - cross - cross.mT


def _like_generated(x: Tensor, image: Tensor) -> None:
    if image.shape[1:] != x.shape[1:]:
        size = ", ".join(str(length) for length in image.shape[1:])
        raise ValueError(f"x must be images of the generator's shape (n, {size}), got {tuple(x.shape)}")


def _second_image(name: str, value: Any, x: Tensor) -> Tensor:
    """`value` as images in the shape, dtype and device of `x`."""
    result = check.images(name, value).detach().to(x)
    if result.shape != x.shape:
        raise ValueError(f"{name} must have the shape of x, {tuple(x.shape)}, got {tuple(result.shape)}")
    return result
