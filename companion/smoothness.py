"""Smoothness of a generator: moduli of continuity, exact, estimated and local; `certificates` has certified ones.

A modulus ω bounds how far images move when latents move: ‖g(z) − g(z')‖ ≤ ω(‖z − z'‖). The bounds of this package
take a modulus and use its generalised inverse, ω⁻¹(η) = sup{t : ω(t) ≤ η}: every shorter latent step moves the image
by at most η.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap
from tqdm.auto import tqdm

from companion import _validation as check
from companion._calls import Guarded, guarded, out_of_memory, working
from companion._types import Model, Numbers


class Modulus:
    """A modulus of continuity: an increasing ω with ω(0) = 0.

    Subclasses give `_forward` and `_inverse` on checked tensors. To use your own, subclass this; a bound accepts any
    object with `inverse`.
    """

    def __call__(self, t: Numbers) -> Tensor:
        """ω(t): the most an image can move when its latent moves by `t` ≥ 0 (any shape)."""
        return self._forward(check.tensor("t", t, minimum=0.0, finite=False))

    def inverse(self, eta: Numbers) -> Tensor:
        """ω⁻¹(eta) = sup{t : ω(t) ≤ eta} for `eta` ≥ 0 (any shape); `inf` where ω never exceeds `eta`."""
        return self._inverse(check.tensor("eta", eta, minimum=0.0, finite=False))

    def _forward(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _inverse(self, eta: Tensor) -> Tensor:
        raise NotImplementedError


class Lipschitz(Modulus):
    """ω(t) = L t, the modulus of an L-Lipschitz generator.

    Args:
        constant: L ≥ 0, one number, image units per latent unit; a tensor may require gradients. 0 says that the
            generator is constant: ω⁻¹ = ∞, no latent step moves the image.
    """

    def __init__(self, constant: Numbers) -> None:
        self.constant = check.tensor("constant", constant)
        if self.constant.numel() != 1 or self.constant < 0:
            raise ValueError(f"constant must be one positive number, or 0 for a constant map, got {constant!r}")

    def _forward(self, t: Tensor) -> Tensor:
        return t * _like(self.constant.squeeze(), t)

    def _inverse(self, eta: Tensor) -> Tensor:
        constant = _like(self.constant.squeeze(), eta)
        return eta / constant if constant > 0 else torch.full_like(eta, torch.inf)

    def __repr__(self) -> str:
        return f"Lipschitz({float(self.constant):.6g})"


class Holder(Modulus):
    """ω(t) = C t^α, the modulus of an α-Hölder generator.

    Args:
        constant: C > 0.
        exponent: α in (0, 1].
    """

    def __init__(self, constant: float, exponent: float) -> None:
        self.constant = check.positive("constant", constant)
        self.exponent = check.positive("exponent", exponent)
        if self.exponent > 1:
            raise ValueError(f"exponent must lie in (0, 1], got {exponent!r}")

    def _forward(self, t: Tensor) -> Tensor:
        return self.constant * t**self.exponent

    def _inverse(self, eta: Tensor) -> Tensor:
        return (eta / self.constant) ** (1 / self.exponent)

    def __repr__(self) -> str:
        return f"Holder({self.constant:g}, {self.exponent:g})"


class CircleModulus(Modulus):
    """ω(t) = 2 sin(π min(t, ½)), the exact modulus of the circle generator: a chord, at most the diameter 2."""

    def _forward(self, t: Tensor) -> Tensor:
        return 2 * torch.sin(math.pi * t.clamp(max=0.5))

    def _inverse(self, eta: Tensor) -> Tensor:
        turns = torch.asin((eta / 2).clamp(max=1.0)) / math.pi
        return torch.where(eta < 2, turns, torch.inf)

    def __repr__(self) -> str:
        return "CircleModulus()"


class Interpolated(Modulus):
    """A modulus from points: between two of them its value is that of the next one, and `inf` beyond the last.

    So it is a modulus of the generator if at each point it is, that is, if every `omega` is at least the most an image
    can move when its latent moves by `t`: moduli never decrease. (A straight line between the points may lie below the
    truth even if they are exact.) Its inverse is the last `t` whose `omega` is at most η, never more than the last
    point's. From points that are estimates, such as those of `local_modulus`, it is an estimate.

    Args:
        t: (T,) positive, strictly increasing latent distances.
        omega: (T,) positive, non-decreasing image distances. The point (0, 0) is added.

    Raises:
        ValueError: if the points are not monotone.
    """

    def __init__(self, t: Numbers, omega: Numbers) -> None:
        t, omega = check.tensor("t", t), check.tensor("omega", omega)
        if t.ndim != 1 or t.shape != omega.shape or t.numel() == 0:
            raise ValueError(
                f"t and omega must have the same shape (T,), got {tuple(t.shape)} and {tuple(omega.shape)}"
            )
        if t[0] <= 0 or (t.diff() <= 0).any():
            raise ValueError(f"t must be positive and strictly increasing, got {t.tolist()}")
        if omega[0] <= 0 or (omega.diff() < 0).any():
            raise ValueError(f"omega must be positive and non-decreasing, got {omega.tolist()}")
        self.t = torch.cat([t.new_zeros(1), t])
        self.omega = torch.cat([omega.new_zeros(1), omega])

    def _forward(self, t: Tensor) -> Tensor:
        following = torch.searchsorted(_like(self.t, t), t.detach().contiguous())
        return _like(torch.cat([self.omega, self.omega.new_full((1,), torch.inf)]), t)[following]

    def _inverse(self, eta: Tensor) -> Tensor:
        beyond = torch.searchsorted(_like(self.omega, eta), eta.detach().contiguous(), right=True)
        return _like(self.t, eta)[beyond - 1]

    def __repr__(self) -> str:
        return f"Interpolated({self.t.numel() - 1} points up to t = {float(self.t[-1]):g})"


def local_modulus(
    generator: Model,
    z: Numbers,
    t: Numbers,
    *,
    steps: int = 20,
    restarts: int = 4,
    seed: int = 0,
    chunk_size: int = 4096,
    progress: bool = False,
) -> Tensor:
    """The local modulus ω_z(t) = sup{‖g(z + r) − g(z)‖ : ‖r‖ ≤ t}, estimated from below by gradient ascent.

    Each start ascends the image distance on the ball by the conditional-gradient step r ← t ∇/‖∇‖ and keeps its best
    iterate. Two starts go both ways along the top singular direction of the Jacobian, the others along random ones;
    each radius also tries the best point of the smaller one, so the result never decreases in `t`.

    Args:
        generator: the generator g.
        z: (n, latent_dim) latents.
        t: (T,) non-negative, increasing radii.
        steps: ascent steps per start.
        restarts: starts per point and radius.
        seed: seeds the random starts.
        chunk_size: latents per generator call.
        progress: show a progress bar.

    Returns:
        (n, T) distances in image units. They are *lower* estimates of ω_z: the search may miss the farthest point.

    Source: the probabilistic modulus of the book's chapter on Theorem 1 (own proof).
    """
    z = check.latents(generator, z)
    t = check.tensor("t", t, minimum=0.0)
    steps, restarts = check.integer("steps", steps, minimum=1), check.integer("restarts", restarts, minimum=1)
    chunk_size = check.integer("chunk_size", chunk_size, minimum=1)
    if t.ndim != 1 or (t.diff() <= 0).any():
        raise ValueError(f"t must have shape (T,) and increase, got {t.tolist()}")
    if z.shape[0] == 0:
        return z.new_zeros(0, t.numel())
    with guarded("generator", generator, z, generates=True) as (call, z):
        wide, radii = working(z), t.to(working(z))
        every = torch.arange(len(z), device=z.device)
        draws, found = torch.Generator("cpu").manual_seed(seed), []
        with tqdm(total=len(z), desc="local moduli", disable=not progress) as bar:
            for rows in every.split(max(1, chunk_size // restarts)):
                random = torch.randn(
                    (restarts, len(rows), z.shape[1]), generator=draws, dtype=torch.float64, device="cpu"
                )
                found.append(_moduli(call, wide[rows], rows, radii, random.to(wide), steps))
                bar.update(len(rows))
    return torch.cat(found).to(z.dtype)


def _moduli(call: Guarded, z: Tensor, rows: Tensor, radii: Tensor, directions: Tensor, steps: int) -> Tensor:
    """The local moduli (n, T) of latents z (n, d), by ascents from `directions` (s, n, d)."""
    base = call.of(z, rows).flatten(1)
    directions[0] = call.mapped(lambda part: _top_direction(call, part), z, rows, 256)
    directions[1:2] = -directions[0]
    columns, carried = [], torch.zeros_like(z)
    for radius in radii:
        starts = torch.cat([directions, carried[None]])
        distance, carried = _ascend(call, z, rows, base, radius, starts, steps)
        columns.append(distance)
    return torch.stack(columns, dim=1)


def _ascend(
    call: Guarded, z: Tensor, rows: Tensor, base: Tensor, radius: Tensor, starts: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The best distance (n,) and its offset r (n, d) over all starts (s, n, d), each projected onto the sphere."""
    s, n, d = starts.shape
    r = radius * nn.functional.normalize(starts, dim=-1)
    # The carried start (the last) is a point of a smaller ball: evaluate it as it is first.
    r[-1] = starts[-1]
    best, best_r = z.new_zeros(n), torch.zeros_like(z)
    targets, index = base.repeat(s, 1), rows.repeat(s)
    for _ in range(steps + 1):

        def squared(images: Tensor, chosen: slice) -> Tensor:
            return (images.flatten(1) - targets[chosen]).square().sum(1)[None]

        images, ascent = call.gradients((z + r).reshape(s * n, d), index, squared)
        distance, winner = (images.flatten(1) - targets).norm(dim=1).reshape(s, n).max(0)
        better = distance > best
        best = torch.where(better, distance, best)
        chosen = r.gather(0, winner[None, :, None].expand(1, n, d))[0]
        best_r = torch.where(better[:, None], chosen, best_r)
        ascent = ascent[0].reshape(s, n, d)
        # A zero gradient (a flat spot) keeps the point where it is.
        flat_spot = ascent.norm(dim=-1, keepdim=True) == 0
        r = torch.where(flat_spot, r, radius * nn.functional.normalize(ascent, dim=-1))
    return best, best_r


def lipschitz_at(
    generator: Model,
    z: Numbers,
    *,
    method: str | None = None,
    iterations: int = 50,
    tolerance: float = 1e-5,
    seed: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """The local Lipschitz constant at each z: the top singular value of the generator's Jacobian.

    Args:
        generator: the generator g.
        z: (n, latent_dim) latents.
        method: "exact" builds the Jacobian J and takes the top eigenvalue of JᵀJ; "lanczos" needs only products with
            J and Jᵀ and so little memory. None: exact up to 64 latent dimensions.
        iterations: most Lanczos steps.
        tolerance: relative accuracy at which Lanczos stops.
        seed: seeds the Lanczos start.
        chunk_size: latents at a time; by default as many as keep the Jacobians below about 256 MB.
        progress: show a progress bar.

    Returns:
        (n,) singular values, image units per latent unit. Lanczos errs only from below.

    Raises:
        ValueError: for what is no generator, a random one, or one whose Jacobian is zero at every z although its images
            differ: it rounds, and its derivative says nothing of how far images move.

    Warns:
        RuntimeWarning: if Lanczos has not reached `tolerance` for some z within `iterations`.

    Source: for differentiable g, the smallest Lipschitz constant near z (mean-value theorem).
    """
    z = check.latents(generator, z)
    iterations = check.integer("iterations", iterations, minimum=1)
    tolerance = check.positive("tolerance", tolerance)
    if method not in (None, "exact", "lanczos"):
        raise ValueError(f"method must be None, 'exact' or 'lanczos', got {method!r}")
    if z.shape[0] == 0:
        return z.new_zeros(0)
    if method is None:
        method = "exact" if z.shape[1] <= 64 else "lanczos"
    with guarded("generator", generator, z, generates=True) as (call, z):
        wide, rows = working(z), torch.arange(len(z), device=z.device)
        if chunk_size is None:
            columns = z.shape[1] if method == "exact" else 2 * iterations
            images = call.of(wide[:1], rows[:1]) if call.bound_to is None else call.of(wide, rows)[:1]
            chunk_size = max(1, 2**28 // (images.nbytes * columns))

        def measure(part: Tensor) -> Tensor:
            if method == "exact":
                value = _gram(call, part)[0]
                return torch.stack([value, torch.zeros_like(value)], 1)
            return torch.stack(_lanczos(call, part, iterations, tolerance, seed), 1)

        found = []
        with tqdm(total=len(z), desc="local Lipschitz constants", disable=not progress) as bar:
            for part in rows.split(chunk_size):
                found.append(call.mapped(measure, wide[part], part, chunk_size))
                bar.update(len(part))
        value, gap = torch.cat(found).unbind(1)
        if not value.any() and (call.of(wide + 1, rows) != call.of(wide, rows)).any():
            raise ValueError(
                "generator must have a derivative that tells how far its images move, but its Jacobian is 0 at every z "
                "while its images differ: does it round its output? Measure it without that"
            )
    if (gap > tolerance).any():
        warnings.warn(
            f"lipschitz_at: Lanczos has not converged for {int((gap > tolerance).sum())} of {len(z)} latents after "
            f"{iterations} iterations (largest relative residual {float(gap.max()):.1e}, tolerance {tolerance:g}); "
            "the values are lower estimates",
            RuntimeWarning,
            stacklevel=2,
        )
    return value.to(z.dtype)


def jacobian(generator: Model, z: Tensor) -> Tensor:
    """The Jacobians (n, pixels, latent_dim) of a generator at z (n, latent_dim), each row by itself, without a graph.

    By forward mode. Where that is not implemented (attention, recurrent layers, custom functions), by reverse mode
    twice, which costs as many passes; where that is not either, by reverse mode, a pass for every pixel.
    """
    z = z.detach()
    for way in (_by_forward_mode, _by_double_reverse_mode):
        try:
            with torch.no_grad():
                return way(generator, z)
        except (RuntimeError, NotImplementedError) as error:
            if out_of_memory(error):
                raise
    # An error of the generator itself comes up here.
    return _by_reverse_mode(generator, z)


def _by_forward_mode(generator: Model, z: Tensor) -> Tensor:
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)

    def column(direction: Tensor) -> Tensor:
        # A copy: the generator may work in place.
        return jvp(lambda point: generator(point.clone()).flatten(1), (z,), (direction.expand_as(z),))[1]

    with warnings.catch_warnings():
        # torch compiles some of its own formulas in a way that it deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        return vmap(column, out_dims=2)(basis)


def _by_double_reverse_mode(generator: Model, z: Tensor) -> Tensor:
    if z[0].numel() >= generator(z[:1].clone()).numel():
        return _by_reverse_mode(generator, z)
    product = _product_operator(generator, z)[0]
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return torch.stack([product(direction.expand_as(z)) for direction in basis], dim=2)


def _by_reverse_mode(generator: Model, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    with torch.enable_grad():
        images = generator(z.clone()).flatten(1)
        if images.grad_fn is None:
            raise ValueError("generator must be differentiable in its latents, but its images carry no gradient")
        ways = [torch.autograd.grad(pixel.sum(), z, retain_graph=True, materialize_grads=True)[0] for pixel in images.T]
    return torch.stack(ways, dim=1)


def _gram(generator: Model, z: Tensor) -> tuple[Tensor, Tensor]:
    """The top singular values (n,) and right singular vectors (n, d) of the Jacobians, from JᵀJ in float64."""
    matrix = jacobian(generator, z).to(torch.float64)
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    return values[:, -1].clamp(min=0).sqrt().to(z), vectors[..., -1].to(z)


def _top_direction(generator: Model, z: Tensor) -> Tensor:
    """An approximate top right singular vector of the Jacobian at each z: one exact or a few power steps."""
    if z.shape[1] <= 128:
        return torch.cat([_gram(generator, part)[1] for part in z.split(256)])
    direction, gram = torch.ones_like(z), _gram_operator(generator, z)
    for _ in range(10):
        direction = gram(nn.functional.normalize(direction, dim=1))
    return direction


def _product_operator(generator: Model, z: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """v ↦ Jv and u ↦ Jᵀu for directions v (n, d) and u (n, pixels), through one graph that is built only once.

    u ↦ Jᵀu is linear, so its own reverse mode is v ↦ Jv: no pass repeats the generator's own arithmetic.
    """
    z = z.detach().clone().requires_grad_()
    options = dict(retain_graph=True, materialize_grads=True)
    with torch.enable_grad():
        image = generator(z.clone()).flatten(1)
        if image.grad_fn is None:
            raise ValueError("generator must be differentiable in its latents, but its images carry no gradient")
        cotangent = torch.zeros_like(image, requires_grad=True)
        (pulled,) = torch.autograd.grad(image, z, cotangent, create_graph=True, **options)

    def push(direction: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, cotangent, direction, **options)[0]

    def pull(direction: Tensor) -> Tensor:
        return torch.autograd.grad(image, z, direction, **options)[0]

    return push, pull


def _gram_operator(generator: Model, z: Tensor) -> Callable[[Tensor], Tensor]:
    """v ↦ JᵀJ v for directions v (n, d); with the Jacobians themselves where reverse mode cannot be taken twice."""
    try:
        push, pull = _product_operator(generator, z)
        push(torch.ones_like(z))
    except (RuntimeError, NotImplementedError) as error:
        if out_of_memory(error):
            raise
        matrix = jacobian(generator, z)
        return lambda direction: (matrix.mT @ (matrix @ direction[..., None]))[..., 0]
    return lambda direction: pull(push(direction))


def _lanczos(generator: Model, z: Tensor, iterations: int, tolerance: float, seed: int) -> tuple[Tensor, Tensor]:
    """Lanczos on JᵀJ with full reorthogonalisation: top singular values (n,) and relative residuals (n,)."""
    n, d = z.shape
    draws = torch.Generator("cpu").manual_seed(seed)
    start = torch.randn(d, generator=draws, dtype=torch.float64, device="cpu").to(z)
    basis, gram = nn.functional.normalize(start, dim=0).expand(n, 1, d), _gram_operator(generator, z)
    diagonal, off_diagonal = [], []
    for step in range(min(iterations, d)):
        vector = basis[:, -1]
        product = gram(vector)
        diagonal.append((product * vector).sum(1))
        # Twice is enough: one pass of Gram-Schmidt leaves rounding that a second removes.
        for _ in range(2):
            product = product - torch.einsum("nkd,nk->nd", basis, torch.einsum("nkd,nd->nk", basis, product))
        off_diagonal.append(product.norm(dim=1))
        tridiagonal = torch.diag_embed(torch.stack(diagonal, 1).double())
        if step:
            beta = torch.stack(off_diagonal[:-1], 1).double()
            tridiagonal = tridiagonal + torch.diag_embed(beta, 1) + torch.diag_embed(beta, -1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        top = values[:, -1].clamp(min=0)
        # |β_k s_k| bounds the distance of the Ritz value to an eigenvalue of JᵀJ; half of it for the square root.
        residual = off_diagonal[-1].double() * vectors[:, -1, -1].abs() / (2 * top).clamp(min=torch.finfo(z.dtype).tiny)
        if (residual <= tolerance).all():
            break
        basis = torch.cat([basis, nn.functional.normalize(product, dim=1)[:, None]], dim=1)
    return top.sqrt().to(z), residual


def _like(constant: Tensor, x: Tensor) -> Tensor:
    """A constant in the dtype and on the device of `x`."""
    return constant.to(dtype=x.dtype, device=x.device)
