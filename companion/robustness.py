"""The three robustness radii of a point x = g(z), measured by attack.

    latent            r_Z(z)   = min ‖r‖             s.t. f(g(z + r)) ≠ f(g(z))
    in-distribution   r_in(x)  = min ‖g(z + r) − x‖  s.t. f(g(z + r)) ≠ f(x)           (Fawzi et al., equation 2)
    unconstrained     r_unc(x) = min ‖r‖             s.t. f(x + r) ≠ f(x)              (Fawzi et al., equation 3)

Always r_unc ≤ r_in ≤ ω(r_Z⁺), the limit from the right. An attack finds points that are adversarial, not that no nearer
one exists: every radius here is an upper estimate, `inf` where none was found. Each comes with its witness, which was
classified again at the end: under the settings of the caller (TF32, autocast, half precision) and in another batch.

Generator and classifier may be anybody's. They get copies, so that they may work in place; their parameters need no
preparation; one that is random, or lets the rows of a batch hang together, is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from companion import _chunks, frames
from companion import _validation as check
from companion._calls import Composed, Guarded, full_precision, guarded, working
from companion._chunks import Interrupted as Interrupted
from companion._chunks import in_chunks, radius_alone
from companion._types import Box, Model, Numbers
from companion.attacks import pullback
from companion.attacks.boundary import Boundary
from companion.attacks.minimal import attack, settle

if TYPE_CHECKING:
    import pandas

# How often the searches of `radii` hand each other what they found; they stop when none found more.
_EXCHANGES = 3


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

    def to_frame(self) -> pandas.DataFrame:
        """The three radii as columns, a row an image; needs the extra `pandas`."""
        return frames.to_frame(self)


def compose(generator: Model, classifier: Model) -> Model:
    """The classifier f∘g on latent space, (n, latent_dim) -> (n, K); attacking it measures r_Z.

    Raises:
        ValueError: if `generator` or `classifier` is not one, or is in training mode.
    """
    check.latent_dim(generator)
    check.network("classifier", classifier)
    return Composed(generator, classifier)


def radii(
    generator: Model,
    classifier: Model,
    z: Numbers,
    *,
    steps: int = 100,
    metric_steps: int = 60,
    bounds: Box | None = None,
    max_latent_norm: float | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
) -> Radii:
    """All three radii of the points g(z); what one search finds is where the others start, until none finds more.

    So r_unc ≤ r_in ≤ ‖g(z + r) − g(z)‖ at the latent witness in every row, and no witness of r_in lies nearer to z than
    r_Z. With `max_latent_norm` r_in is another number, the least inside the ball, and may exceed the right-hand side.

    r_in is measured between images as the generator makes them, r_unc between images as the classifier takes them:
    where the classifier is in half precision and the generator is not, the first inequality holds up to that rounding.

    Args:
        generator: the generator g.
        classifier: the classifier f.
        z: (n, latent_dim) latents.
        steps: gradients per row for each of the attacks on f∘g and on f.
        metric_steps: Jacobians per row, as of `in_distribution_radius`.
        bounds: None, or the pixel box (low, high) of the unconstrained attack.
        max_latent_norm: None, or the largest ‖z + r‖ allowed to the in-distribution witness.
        seed: seeds the samples of the prior.
        chunk_size: rows at a time; by default at most 512, fewer where memory asks for it.
        progress: show a progress bar.

    Returns:
        `Radii` of n rows.

    Raises:
        ValueError: as `latent_radius` and `in_distribution_radius`.
        Interrupted: on Ctrl-C, with the rows that were finished.
    """
    options: dict[str, Any] = dict(metric_steps=metric_steps, max_latent_norm=max_latent_norm, seed=seed)
    with _case(generator, classifier, z, steps, **options) as case:
        image = case.image(case.z, torch.arange(len(case.z), device=case.z.device))
        box = check.box("bounds", bounds, image)
        with guarded("classifier", classifier, image) as (call, x):
            return _all_radii(case, call, x, steps, box, chunk_size, progress)


@overload
def latent_radius(
    generator: Model,
    classifier: Model,
    z: Numbers,
    *,
    steps: int = ...,
    chunk_size: int | None = ...,
    progress: bool = ...,
    return_witness: Literal[False] = False,
) -> Tensor: ...
@overload
def latent_radius(
    generator: Model,
    classifier: Model,
    z: Numbers,
    *,
    steps: int = ...,
    chunk_size: int | None = ...,
    progress: bool = ...,
    return_witness: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def latent_radius(
    generator: Model,
    classifier: Model,
    z: Numbers,
    *,
    steps: int = 100,
    chunk_size: int | None = None,
    progress: bool = False,
    return_witness: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The latent radius r_Z: the smallest latent step that changes the label, found by `attacks.minimal_l2` on f∘g.

    Args:
        generator: the generator g.
        classifier: the classifier f.
        z: (n, latent_dim) latents.
        steps: gradients per row.
        chunk_size: rows at a time; by default at most 512, fewer where memory asks for it.
        progress: show a progress bar.
        return_witness: also return the points z + r.

    Returns:
        (n,) radii in latent units, `inf` where none was found; with `return_witness` also (n, latent_dim) points,
        equal to `z` where none was found. Both in the precision of the generator's parameters.

    Raises:
        ValueError: for what is no generator, classifier or batch of latents, a model in training mode, without
            gradients, random, or that lets the rows of a batch hang together.
        Interrupted: on Ctrl-C, with the rows that were finished.
    """
    with _case(generator, classifier, z, steps) as case:
        unfinished = torch.full_like(case.z[:, 0], torch.nan), case.z
        make = tuple if return_witness else radius_alone
        return in_chunks(case.latent, unfinished, case.rows(chunk_size), progress, "latent radius", make)


@overload
def in_distribution_radius(
    generator: Model,
    classifier: Model,
    z: Numbers,
    *,
    steps: int = ...,
    metric_steps: int = ...,
    max_latent_norm: float | None = ...,
    start: Numbers | None = ...,
    seed: int = ...,
    chunk_size: int | None = ...,
    progress: bool = ...,
    return_witness: Literal[False] = False,
) -> Tensor: ...
@overload
def in_distribution_radius(
    generator: Model,
    classifier: Model,
    z: Numbers,
    *,
    steps: int = ...,
    metric_steps: int = ...,
    max_latent_norm: float | None = ...,
    start: Numbers | None = ...,
    seed: int = ...,
    chunk_size: int | None = ...,
    progress: bool = ...,
    return_witness: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def in_distribution_radius(
    generator: Model,
    classifier: Model,
    z: Numbers,
    *,
    steps: int = 100,
    metric_steps: int = 60,
    max_latent_norm: float | None = None,
    start: Numbers | None = None,
    seed: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    return_witness: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The in-distribution radius r_in: the smallest image change along the generator's range that changes the label.

    Image distances near a latent are measured by the pull-back metric JᵀJ of the generator. In coordinates in which it
    is the identity, r_in is an ordinary L2 radius: with the first three metrics, `attacks.minimal_l2` searches there.
    The others serve Levenberg-Marquardt steps on the image distance itself, along the linearised boundary of f∘g. From
    the fourth on, these begin at the best point so far and at up to six samples of the prior that lie near in the
    image and in another class. One fixed sequence, which `metric_steps` only cuts off: more never give a larger radius.

    Args:
        generator: the generator g.
        classifier: the classifier f.
        z: (n, latent_dim) latents.
        steps: gradients per row of the latent search for a start.
        metric_steps: Jacobians per row, each of latent_dim forward passes and some gradients more.
        max_latent_norm: None, or R > 0: only witnesses with ‖z + r‖ ≤ R count. The unrestricted optimum may lie
            where the prior has no mass.
        start: None, or (n, latent_dim) points to start from instead of a latent search, such as latent witnesses.
        seed: seeds the samples of the prior.
        chunk_size: rows at a time; by default at most 512, fewer where memory asks for it.
        progress: show a progress bar.
        return_witness: also return the points z + r.

    Returns:
        (n,) radii in image units, `inf` where none was found; with `return_witness` also (n, latent_dim) points.

    Raises:
        ValueError: as `latent_radius`; for a `start` or an option out of range.
        Interrupted: on Ctrl-C, with the rows that were finished.

    Source: definition, Fawzi et al. (2018), equation (2); method, own.
    """
    options: dict[str, Any] = dict(metric_steps=metric_steps, max_latent_norm=max_latent_norm, seed=seed, start=start)
    with _case(generator, classifier, z, steps, **options) as case:
        unfinished = torch.full_like(case.z[:, 0], torch.nan), case.z
        rows, make = case.rows(chunk_size), tuple if return_witness else radius_alone
        return in_chunks(case.in_distribution, unfinished, rows, progress, "in-distribution radius", make)


@overload
def unconstrained_radius(
    classifier: Model,
    x: Numbers,
    *,
    steps: int = ...,
    bounds: Box | None = ...,
    start: Numbers | None = ...,
    chunk_size: int | None = ...,
    progress: bool = ...,
    return_witness: Literal[False] = False,
) -> Tensor: ...
@overload
def unconstrained_radius(
    classifier: Model,
    x: Numbers,
    *,
    steps: int = ...,
    bounds: Box | None = ...,
    start: Numbers | None = ...,
    chunk_size: int | None = ...,
    progress: bool = ...,
    return_witness: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def unconstrained_radius(
    classifier: Model,
    x: Numbers,
    *,
    steps: int = 100,
    bounds: Box | None = None,
    start: Numbers | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
    return_witness: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The unconstrained radius r_unc: the smallest perturbation of the image itself that changes the label.

    Args:
        classifier: the classifier f.
        x: (n, *image) images.
        steps: gradients per row of `attacks.minimal_l2`.
        bounds: None, as in the definition, or the pixel box (low, high).
        start: None, or (n, *image) points, such as in-distribution witnesses; adversarial ones are improved on.
        chunk_size: rows at a time; by default at most 512, fewer where memory asks for it.
        progress: show a progress bar.
        return_witness: also return the points x + r.

    Returns:
        (n,) radii in image units, `inf` where none was found; with `return_witness` also (n, *image) points. Both in
        the precision of the classifier's parameters.

    Raises:
        ValueError: as `latent_radius`, for images.
        Interrupted: on Ctrl-C, with the rows that were finished.
    """
    check.network("classifier", classifier)
    x = check.images("x", x).detach()
    bounds, steps = check.box("bounds", bounds, x), check.integer("steps", steps, minimum=1)
    if start is not None:
        start = check.images("start", start).detach()
        if start.shape != x.shape:
            raise ValueError(f"start must have the shape of x, {tuple(x.shape)}, got {tuple(start.shape)}")
    with guarded("classifier", classifier, x) as (call, x):
        y = _labels(call, x)
        starts = [] if start is None else [start.to(x)]

        def search(rows: Tensor) -> tuple[Tensor, Tensor]:
            return _nearest_image(call, x[rows], y[rows], rows, steps, bounds, [start[rows] for start in starts])

        chunk = _chunks.size(chunk_size, 32 * x[:1].nbytes, x.device)
        unfinished = torch.full_like(x.flatten(1)[:, 0], torch.nan), x
        make = tuple if return_witness else radius_alone
        return in_chunks(search, unfinished, chunk, progress, "unconstrained radius", make)


def _all_radii(
    case: _Case,
    call: Guarded,
    x: Tensor,
    steps: int,
    bounds: tuple[float, float] | None,
    chunk_size: int | None,
    progress: bool,
) -> Radii:
    def search(rows: Tensor) -> tuple[Tensor, ...]:
        latent, inside = case.both(rows)
        starts = [case.image(witness, rows) for _, witness in (inside, latent)]
        unconstrained = _nearest_image(call, x[rows], case.y[rows], rows, steps, bounds, starts)
        # The radii first, then the witnesses.
        return tuple(column for pair in zip(latent, inside, unconstrained, strict=True) for column in pair)

    unknown = [torch.full_like(entry.flatten(1)[:, 0], torch.nan) for entry in (case.z, x, x)]
    unfinished, rows = (*unknown, case.z, case.z, x), case.rows(chunk_size)
    return in_chunks(search, unfinished, rows, progress, "radii", make=lambda columns: Radii(*columns))


@contextlib.contextmanager
def _case(
    generator: Model,
    classifier: Model,
    z: Numbers,
    steps: int,
    *,
    metric_steps: int = 0,
    max_latent_norm: float | None = None,
    seed: int = 0,
    start: Numbers | None = None,
) -> Iterator[_Case]:
    """A `_Case` of checked arguments, for the time of the `with` block."""
    z = check.latents(generator, z)
    check.network("classifier", classifier)
    steps, metric_steps = (
        check.integer(name, value, minimum=least)
        for name, value, least in (("steps", steps, 1), ("metric_steps", metric_steps, 0))
    )
    seed = check.integer("seed", seed, minimum=0)
    max_norm = None if max_latent_norm is None else check.positive("max_latent_norm", max_latent_norm)
    if start is not None:
        start = check.tensor("start", start).detach()
        if start.shape != z.shape:
            raise ValueError(f"start must have the shape of z, {tuple(z.shape)}, got {tuple(start.shape)}")
    with guarded("generator", generator, z, generates=True) as (g, z):
        if not len(z):
            # Only the shape of an image can be told.
            check.generate(g, z)
        g.require_gradient()
        with guarded("classifier", Composed(generator, classifier), z) as (composed, _):
            yield _Case(g, composed, z, steps, metric_steps, max_norm, seed, None if start is None else start.to(z))


class _Case:
    """A generator and a classifier around n latents, with a search for each radius; rows are given as numbers (k,).

    A search returns (k,) radii, `inf` where none was found, and (k, latent_dim) witnesses that were classified again.
    """

    def __init__(
        self,
        generator: Guarded,
        composed: Guarded,
        z: Tensor,
        steps: int,
        metric_steps: int,
        max_norm: float | None,
        seed: int,
        start: Tensor | None,
    ) -> None:
        self.generator, self.composed, self.z, self.start = generator, composed, z, start
        self.steps, self.metric_steps, self.max_norm, self.seed = steps, metric_steps, max_norm, seed
        self.y = _labels(composed, z)
        self.pool: pullback.Pool | None = None

    def rows(self, chunk_size: int | None) -> int:
        """How many rows at a time: a row holds some (latent_dim, latent_dim) matrices for each of its six searches."""
        dim = self.z.shape[1]
        numbers = 24 * dim * dim + 2 * pullback.POOL * dim
        return _chunks.size(chunk_size, numbers * self.z.element_size(), self.z.device)

    def image(self, z: Tensor, rows: Tensor) -> Tensor:
        return self.generator.of(z, rows)

    def latent(self, rows: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, y = self.z[rows], self.y[rows]
        witness = attack(self.composed, z, y, steps=self.steps, start=start, rows=rows, own=True)
        return _radius(self.composed, y, rows, witness, _length(witness - z)), witness

    def in_distribution(self, rows: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if start is None:
            start = self.latent(rows)[1] if self.start is None else self.start[rows]
        z, y = self.z[rows], self.y[rows]
        with full_precision(z.device):
            if self.metric_steps > 3 and self.pool is None:
                self.pool = pullback.prior_pool(
                    self.generator, self.composed, working(self.z), self.max_norm, self.seed
                )
            boundary = Boundary(self.composed, working(z), y, max_norm=self.max_norm, rows=rows)
            surface = pullback.Range(self.generator, boundary)
            found = pullback.search(surface, working(start), self.metric_steps, self.pool)
        witness = settle(self.composed, z, y, found.to(z.dtype), rows=rows, max_norm=self.max_norm)
        return self._image_radius(z, y, witness, rows), witness

    def both(self, rows: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(r_Z, witness) and (r_in, witness), each search begun again where the other's witness is nearer."""
        z, y = self.z[rows], self.y[rows]
        latent = self.latent(rows)
        inside = self.in_distribution(rows, latent[1])
        for _ in range(_EXCHANGES):
            nearer = torch.where(inside[0].isfinite(), _length(inside[1] - z), torch.inf) < latent[0]
            if not nearer.any():
                break
            # The witness of r_in counts for r_Z as it is, and the search begun there may come nearer still.
            latent = _nearer(latent, (torch.where(nearer, _length(inside[1] - z), torch.inf), inside[1]))
            latent = _nearer(latent, self.latent(rows, latent[1]))
            if self.max_norm is None:
                inside = _nearer(inside, (self._image_radius(z, y, latent[1], rows), latent[1]))
        reached = torch.where(inside[0].isfinite(), _length(inside[1] - z), torch.inf)
        return _nearer(latent, (reached, inside[1])), inside

    def _image_radius(self, z: Tensor, y: Tensor, witness: Tensor, rows: Tensor) -> Tensor:
        length = _length(self.image(witness, rows) - self.image(z, rows))
        return _radius(self.composed, y, rows, witness, length)


def _nearest_image(
    call: Guarded,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    steps: int,
    bounds: tuple[float, float] | None,
    starts: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """r_unc (k,) with its witnesses, no farther than those of the points `starts` that are classified otherwise."""
    nearest = torch.full_like(x.flatten(1)[:, 0], torch.inf), x
    for start in starts:
        start = start.to(x) if bounds is None else start.to(x).clamp(*bounds)
        nearest = _nearer(nearest, (_radius(call, y, rows, start, _length(start - x)), start))
    begin = nearest[1] if starts else None
    witness = attack(call, x, y, steps=steps, bounds=bounds, start=begin, rows=rows, own=True)
    return _nearer((_radius(call, y, rows, witness, _length(witness - x)), witness), nearest)


def _nearer(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(radius, witness) of whichever radius (k,) is smaller in each row."""
    better = other[0] < one[0]
    shape = [-1] + [1] * (one[1].ndim - 1)
    return torch.where(better, other[0], one[0]), torch.where(better.reshape(shape), other[1], one[1])


def _radius(call: Guarded, y: Tensor, rows: Tensor, witness: Tensor, length: Tensor) -> Tensor:
    """The lengths (k,) where the witness is classified otherwise than `y`, else `inf`."""
    return torch.where(call.of(witness, rows).argmax(1) != y, length, torch.inf)


def _length(change: Tensor) -> Tensor:
    return working(change).flatten(1).norm(dim=1).to(change.dtype)


def _labels(call: Guarded, x: Tensor) -> Tensor:
    if not len(x):
        return torch.zeros(0, dtype=torch.long, device=x.device)
    return check.classify(call.of, x, torch.arange(len(x), device=x.device)).argmax(1)
