"""Smoothness of a generator: moduli of continuity, exact, certified, estimated and local.

A modulus ω bounds how far images move when latents move: ‖g(z) − g(z')‖ ≤ ω(‖z − z'‖) (deck equation 1). The bounds
of this package take a modulus and use its generalised inverse, ω⁻¹(η) = sup{t : ω(t) ≤ η}: every shorter latent step
moves the image by at most η.
"""

from __future__ import annotations

import copy
import math
import warnings

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from tqdm.auto import tqdm

from companion import _validation as check
from companion._calls import guarded, out_of_memory, working


class Modulus:
    """A modulus of continuity: an increasing ω with ω(0) = 0.

    Subclasses give `_forward` and `_inverse` on checked tensors. To use your own, subclass this; a bound accepts any
    object with `inverse`.
    """

    def __call__(self, t) -> Tensor:
        """ω(t): the most an image can move when its latent moves by `t` ≥ 0 (any shape)."""
        return self._forward(check.tensor("t", t, minimum=0.0, finite=False))

    def inverse(self, eta) -> Tensor:
        """ω⁻¹(eta) = sup{t : ω(t) ≤ eta} for `eta` ≥ 0 (any shape); `inf` where ω never exceeds `eta`."""
        return self._inverse(check.tensor("eta", eta, minimum=0.0, finite=False))

    def _forward(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _inverse(self, eta: Tensor) -> Tensor:
        raise NotImplementedError


class Lipschitz(Modulus):
    """ω(t) = L t, the modulus of an L-Lipschitz generator.

    Args:
        constant: L > 0, one number, image units per latent unit; a tensor may require gradients.
    """

    def __init__(self, constant):
        self.constant = check.tensor("constant", constant)
        if self.constant.numel() != 1 or self.constant <= 0:
            raise ValueError(f"constant must be one positive number, got {constant!r}")

    def _forward(self, t: Tensor) -> Tensor:
        return t * _like(self.constant.squeeze(), t)

    def _inverse(self, eta: Tensor) -> Tensor:
        return eta / _like(self.constant.squeeze(), eta)

    def __repr__(self) -> str:
        return f"Lipschitz({float(self.constant):.6g})"


class Holder(Modulus):
    """ω(t) = C t^α, the modulus of an α-Hölder generator.

    Args:
        constant: C > 0.
        exponent: α in (0, 1].
    """

    def __init__(self, constant: float, exponent: float):
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

    def __init__(self, t, omega):
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
    generator,
    z,
    t,
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


def _moduli(call, z: Tensor, rows: Tensor, radii: Tensor, directions: Tensor, steps: int) -> Tensor:
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


def _ascend(call, z, rows, base, radius, starts, steps):
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
    generator,
    z,
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


def jacobian(generator, z: Tensor) -> Tensor:
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


def _by_forward_mode(generator, z: Tensor) -> Tensor:
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)

    def column(direction: Tensor) -> Tensor:
        # A copy: the generator may work in place.
        return jvp(lambda point: generator(point.clone()).flatten(1), (z,), (direction.expand_as(z),))[1]

    return vmap(column, out_dims=2)(basis)


def _by_double_reverse_mode(generator, z: Tensor) -> Tensor:
    if z[0].numel() >= generator(z[:1].clone()).numel():
        return _by_reverse_mode(generator, z)
    product = _product_operator(generator, z)[0]
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return torch.stack([product(direction.expand_as(z)) for direction in basis], dim=2)


def _by_reverse_mode(generator, z: Tensor) -> Tensor:
    z = z.clone().requires_grad_()
    with torch.enable_grad():
        images = generator(z.clone()).flatten(1)
        if images.grad_fn is None:
            raise ValueError("generator must be differentiable in its latents, but its images carry no gradient")
        ways = [torch.autograd.grad(pixel.sum(), z, retain_graph=True, materialize_grads=True)[0] for pixel in images.T]
    return torch.stack(ways, dim=1)


def _gram(generator, z: Tensor) -> tuple[Tensor, Tensor]:
    """The top singular values (n,) and right singular vectors (n, d) of the Jacobians, from JᵀJ in float64."""
    matrix = jacobian(generator, z).to(torch.float64)
    values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
    return values[:, -1].clamp(min=0).sqrt().to(z), vectors[..., -1].to(z)


def _top_direction(generator, z: Tensor) -> Tensor:
    """An approximate top right singular vector of the Jacobian at each z: one exact or a few power steps."""
    if z.shape[1] <= 128:
        return torch.cat([_gram(generator, part)[1] for part in z.split(256)])
    direction, gram = torch.ones_like(z), _gram_operator(generator, z)
    for _ in range(10):
        direction = gram(nn.functional.normalize(direction, dim=1))
    return direction


def _product_operator(generator, z: Tensor):
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


def _gram_operator(generator, z: Tensor):
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


def _lanczos(generator, z: Tensor, iterations: int, tolerance: float, seed: int) -> tuple[Tensor, Tensor]:
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
        top = values[:, -1].clamp(min=torch.finfo(z.dtype).tiny)
        # |β_k s_k| bounds the distance of the Ritz value to an eigenvalue of JᵀJ; half of it for the square root.
        residual = off_diagonal[-1].double() * vectors[:, -1, -1].abs() / (2 * top)
        if (residual <= tolerance).all():
            break
        basis = torch.cat([basis, nn.functional.normalize(product, dim=1)[:, None]], dim=1)
    return top.sqrt().to(z), residual


def certified_lipschitz(network: nn.Module, input_shape) -> Lipschitz:
    """A certified Lipschitz constant of a feed-forward network: the product of its layers' operator norms.

    Neighbouring affine layers (linear, convolution, batch norm in evaluation mode, reshaping, pooling, upsampling)
    are taken as one map. Where that map is small enough it is written out as a matrix and its norm is exact; where
    not, its layers are bounded one by one, a convolution by the supremum of its Fourier symbol, which holds for every
    image size. Every step is an upper bound, up to float64 rounding.

    Args:
        network: an `nn.Sequential`, possibly nested, of the layers above and of element-wise activations or max
            pooling without overlap.
        input_shape: shape of one input, (latent_dim,) for a generator.

    Returns:
        `Lipschitz(L)` with ‖network(z) − network(z')‖ ≤ L ‖z − z'‖ for all z, z'.

    Raises:
        ValueError: if the network is in training mode or has a layer of another kind, which is named.

    Source: product bound, Szegedy et al. (2013), section 4.3; Fourier symbol, Sedghi et al. (2019); from grid to
    supremum, Ehlich & Zeller (1964).
    """
    check.network("network", network)
    if not isinstance(network, nn.Sequential):
        raise ValueError(f"network must be an nn.Sequential of feed-forward layers, got {type(network).__name__}")
    bound, run = 1.0, []
    x = torch.zeros(1, *input_shape, dtype=torch.float64)
    run_input = x
    for layer in [*_leaves(copy.deepcopy(network).double().cpu()), None]:
        if isinstance(layer, _AFFINE):
            run.append(layer)
            x = layer(x)
            continue
        if run:
            bound *= _affine_norm(run, run_input)
        if layer is not None:
            bound *= _activation_constant(layer)
            x = layer(x)
        run, run_input = [], x
    return Lipschitz(bound)


# Affine maps with at most this many matrix entries are written out; 2^24 float64 entries are 128 MB.
_DENSE_ENTRIES = 2**24
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
_SCALINGS = (nn.BatchNorm1d, nn.BatchNorm2d)
_RESAMPLINGS = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample)
# These permute or keep entries.
_RESHAPINGS = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.PixelShuffle)
_AFFINE = (nn.Linear, *_CONVOLUTIONS, *_SCALINGS, *_RESAMPLINGS, *_RESHAPINGS)
# Largest slope of each activation. GELU's is Φ(√2) + √2 φ(√2), SiLU's is rounded up from 1.099839.
_SLOPES = {nn.ReLU: 1.0, nn.ReLU6: 1.0, nn.Hardtanh: 1.0, nn.Tanh: 1.0, nn.Softplus: 1.0, nn.Sigmoid: 0.25}
_SLOPES |= {nn.GELU: 1.12890429, nn.SiLU: 1.09984}


def _leaves(network: nn.Module):
    """The layers of a nested Sequential in the order in which they run."""
    if isinstance(network, nn.Sequential):
        for child in network:
            yield from _leaves(child)
    else:
        yield network


def _activation_constant(layer: nn.Module) -> float:
    if type(layer) in _SLOPES:
        return _SLOPES[type(layer)]
    if isinstance(layer, nn.LeakyReLU):
        return max(1.0, abs(layer.negative_slope))
    if isinstance(layer, nn.ELU):
        return max(1.0, layer.alpha)
    if isinstance(layer, nn.MaxPool2d):
        # Without overlap each pixel enters one maximum, and a maximum is 1-Lipschitz.
        if layer.stride == layer.kernel_size and layer.dilation == 1:
            return 1.0
        raise ValueError(f"network must not have overlapping max pooling, got {layer}")
    supported = sorted(kind.__name__ for kind in [*_AFFINE, *_SLOPES, nn.LeakyReLU, nn.ELU, nn.MaxPool2d])
    raise ValueError(f"network must consist of {', '.join(supported)}; got {layer}")


def _affine_norm(run: list[nn.Module], x: Tensor) -> float:
    """An upper bound on the operator norm of affine layers applied one after the other to inputs shaped like `x`."""
    affine = nn.Sequential(*run)
    with torch.no_grad():
        offset = affine(torch.zeros_like(x))
        if x.numel() * offset.numel() <= _DENSE_ENTRIES:
            basis = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape[1:])
            matrix = (affine(basis) - offset).flatten(1)
            return torch.linalg.matrix_norm(matrix, 2).item()
        bound, previous = 1.0, None
        for layer, following in zip(run, [*run[1:], None], strict=True):
            scale = _scale(following) if isinstance(following, _SCALINGS) else None
            if isinstance(layer, (nn.Linear, *_CONVOLUTIONS)):
                bound *= _weight_norm(layer, scale)
            elif isinstance(layer, _SCALINGS):
                # Already part of the layer before it, if that one has weights.
                if not isinstance(previous, (nn.Linear, *_CONVOLUTIONS)):
                    bound *= _scale(layer).abs().max().item()
            elif isinstance(layer, _RESAMPLINGS):
                bound *= _averaging_norm(layer, x)
            previous, x = layer, layer(x)
    return bound


def _scale(layer: nn.Module) -> Tensor:
    """What batch norm in evaluation mode multiplies each channel by."""
    if layer.running_var is None:
        raise ValueError(f"network must not have batch norm without running statistics, got {layer}")
    scale = (layer.running_var + layer.eps).rsqrt()
    return scale if layer.weight is None else scale * layer.weight


def _averaging_norm(layer: nn.Module, x: Tensor) -> float:
    """√(‖A‖₁ ‖A‖_∞) of a map A with non-negative entries: its largest column sum and largest row sum."""
    ones = torch.ones_like(x)
    with torch.enable_grad():
        rows, pull_back = vjp(layer, ones)
    (columns,) = pull_back(torch.ones_like(rows))
    return math.sqrt(rows.max().item() * columns.max().item())


def _weight_norm(layer: nn.Module, scale: Tensor | None) -> float:
    """The norm of a linear or convolution layer, its output channels multiplied by `scale`."""
    weight = layer.weight
    if isinstance(layer, nn.Linear):
        return torch.linalg.matrix_norm(weight if scale is None else scale[:, None] * weight, 2).item()
    if layer.padding_mode not in ("zeros", "circular"):
        raise ValueError(f"network must pad convolutions with zeros or circularly, got {layer}")
    if isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        # The adjoint of a convolution: rows are input channels, columns output channels; norms are equal.
        groups = list(weight.chunk(layer.groups))
        if scale is not None:
            parts = scale.chunk(layer.groups)
            groups = [g * s.reshape(1, -1, *[1] * (g.ndim - 2)) for g, s in zip(groups, parts, strict=True)]
    else:
        if scale is not None:
            weight = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        groups = list(weight.chunk(layer.groups))
    return max(_symbol_supremum(_dilate(group, layer.dilation), layer.stride) for group in groups)


def _dilate(kernel: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """The kernel (rows, columns, *taps) with zeros between its taps."""
    for axis, gap in enumerate(dilation, start=2):
        size = (kernel.shape[axis] - 1) * gap + 1
        spread = kernel.new_zeros(*kernel.shape[:axis], size, *kernel.shape[axis + 1 :])
        spread.index_copy_(axis, torch.arange(0, size, gap), kernel)
        kernel = spread
    return kernel


def _symbol_supremum(kernel: Tensor, stride: tuple[int, ...]) -> float:
    """An upper bound on sup_θ ‖P(θ)‖, P the Fourier symbol of a strided convolution on an infinite grid.

    Zero padding and cropping only restrict that convolution, so its norm bounds the layer's at every image size. With
    stride s the symbol is a (rows, columns·s^dims) matrix, one block per phase of the input. Each entry is a
    trigonometric polynomial of degree m = ⌊Q/2⌋ for Q taps per phase, and on N equidistant points such a polynomial
    reaches at least cos(πm/N) times its maximum: dividing by that turns the largest grid value into a bound.
    """
    rows, columns, *sizes = kernel.shape
    for axis, step in enumerate(stride, start=2):
        missing = -kernel.shape[axis] % step
        kernel = torch.cat([kernel, kernel.new_zeros(*kernel.shape[:axis], missing, *kernel.shape[axis + 1 :])], axis)
        kernel = kernel.unflatten(axis, (-1, step)).movedim(axis + 1, 2).flatten(1, 2)
    taps = kernel.shape[2:]
    degrees = [count // 2 for count in taps]
    grid = [max(1, 32 * degree) for degree in degrees]
    symbol = torch.fft.fftn(kernel, s=grid, dim=tuple(range(2, kernel.ndim)))
    # Real weights: the symbol at −θ is the conjugate of that at θ, so half of the last axis is enough.
    symbol = symbol.narrow(-1, 0, grid[-1] // 2 + 1).flatten(2).movedim(-1, 0)
    if symbol.shape[1] > symbol.shape[2]:
        symbol = symbol.mT
    top = max(torch.linalg.eigvalsh(part @ part.mH)[:, -1].max().item() for part in symbol.split(64))
    slack = math.prod(math.cos(math.pi * degree / size) for degree, size in zip(degrees, grid, strict=True))
    return math.sqrt(top) / slack


def _like(constant: Tensor, x: Tensor) -> Tensor:
    """A constant in the dtype and on the device of `x`."""
    return constant.to(dtype=x.dtype, device=x.device)
