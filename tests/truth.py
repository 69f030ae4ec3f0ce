"""A second opinion on radii: exact, or dense enough to be, and made without the package's searches.

    relu_radius        small ReLU networks: linear pieces in the order of their distance, a quadratic programme on each
    quadratic_radius   quadratic logits: the secular equation
    grid_radii         smooth generators of latent dimension 1 or 2: every boundary of a dense grid

`python -m tests.truth` prints how far the package is from them.
"""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import torch
from scipy.optimize import nnls
from torch import nn


def least_distance(normals: np.ndarray, levels: np.ndarray) -> np.ndarray | None:
    """The shortest r (m,) with `normals` (c, m) @ r >= `levels` (c,); None where there is none.

    Source: Lawson & Hanson (1974), chapter 23: a non-negative least-squares problem, solved in finitely many steps.
    """
    lengths = np.linalg.norm(normals, axis=1)
    flat = lengths < 1e-12
    if (levels[flat] > 1e-12).any():
        return None
    normals, levels = normals[~flat] / lengths[~flat, None], levels[~flat] / lengths[~flat]
    if (levels <= 0).all():
        return np.zeros(normals.shape[1])
    system = np.vstack([normals.T, levels])
    aim = np.append(np.zeros(normals.shape[1]), 1.0)
    residual = system @ nnls(system, aim, maxiter=50 * system.shape[1])[0] - aim
    # The last entry is -1 / (1 + |r|^2): no r shorter than 10,000 is feasible where it vanishes.
    if residual[-1] > -1e-8:
        return None
    step = -residual[:-1] / residual[-1]
    # Without a solution the residual is nought but for rounding, and so is nothing that it says.
    return step if (normals @ step - levels).min() > -1e-6 * (1 + np.linalg.norm(step)) else None


def linear_layers(network: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight, bias) of the linear layers of a network of Flatten, Linear, ReLU, Linear, …, Linear, in float64."""
    kinds = [type(layer) for layer in network if not isinstance(layer, nn.Flatten)]
    assert kinds == [nn.Linear, nn.ReLU] * (len(kinds) // 2) + [nn.Linear], f"not a plain ReLU network: {kinds}"
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    return [tuple(part.detach().double().cpu().numpy() for part in (layer.weight, layer.bias)) for layer in linear]


def relu_radius(network: nn.Module, x, y, bounds=None) -> tuple[np.ndarray, np.ndarray]:
    """Exact r_unc of a small ReLU network: radii (n,) and the points (n, m) on the boundary, `inf` and NaN for none.

    Args:
        network: Linear, ReLU, …, Linear; perhaps a Flatten before.
        x: (n, *image) points.
        y: (n,) their labels.
        bounds: None, or the box (low, high).
    """
    layers = linear_layers(network)
    points, labels = x.detach().double().cpu().flatten(1).numpy(), y.tolist()
    found = [_relu_row(layers, point, label, bounds) for point, label in zip(points, labels, strict=True)]
    radius, witness = (np.array(column) for column in zip(*found, strict=True))
    return radius, witness


def _relu_row(layers, point: np.ndarray, label: int, bounds) -> tuple[float, np.ndarray]:
    """Nodes fix the signs of ever more units. The nearest node is opened first, so the first goal opened is nearest."""
    size, order = len(point), itertools.count()
    normals, levels = np.zeros((0, size)), np.zeros(0)
    if bounds is not None:
        normals = np.vstack([np.eye(size), -np.eye(size)])
        levels = np.concatenate([bounds[0] - point, point - bounds[1]])
    weight, bias = layers[0]
    heap = [(0.0, next(order), np.zeros(size), normals, levels, 0, (), weight, weight @ point + bias)]
    while heap:
        length, _, step, normals, levels, depth, signs, slope, value = heapq.heappop(heap)
        if depth == len(layers):
            return length, point + step
        if len(signs) < len(value):
            unit = len(signs)
            here = value[unit] + slope[unit] @ step
            for sign in (1.0, -1.0):
                more = np.vstack([normals, sign * slope[unit]]), np.append(levels, -sign * value[unit])
                # The side on which the node's nearest point lies keeps it.
                nearest = step if sign * here >= 0 else least_distance(*more)
                if nearest is not None:
                    bound = max(length, np.linalg.norm(nearest))
                    signs_now = (*signs, max(sign, 0.0))
                    heapq.heappush(heap, (bound, next(order), nearest, *more, depth, signs_now, slope, value))
            continue
        on, depth = np.array(signs), depth + 1
        weight, bias = layers[depth]
        slope, value = weight @ (on[:, None] * slope), weight @ (on * value) + bias
        if depth < len(layers) - 1:
            heapq.heappush(heap, (length, next(order), step, normals, levels, depth, (), slope, value))
            continue
        for rival in set(range(len(value))) - {label}:
            more = np.vstack([normals, slope[rival] - slope[label]]), np.append(levels, value[label] - value[rival])
            nearest = least_distance(*more)
            if nearest is not None:
                bound = max(length, np.linalg.norm(nearest))
                heapq.heappush(heap, (bound, next(order), nearest, *more, len(layers), (), slope, value))
    return np.inf, np.full(size, np.nan)


class Quadratic(nn.Module):
    """Logits xᵀA_k x + b_kᵀx + c_k."""

    def __init__(self, square: np.ndarray, linear: np.ndarray, constant: np.ndarray, dtype=torch.float64):
        super().__init__()
        square = (square + square.swapaxes(1, 2)) / 2
        for name, entry in (("square", square), ("linear", linear), ("constant", constant)):
            self.register_buffer(name, torch.tensor(entry, dtype=dtype))

    def forward(self, x):
        x = x.flatten(1)
        return torch.einsum("ni,kij,nj->nk", x, self.square, x) + x @ self.linear.T + self.constant


def quadratic_radius(classifier: Quadratic, x, y) -> np.ndarray:
    """Exact r_unc (n,) of quadratic logits: the nearest of the boundaries to the other classes."""
    square, linear, constant = (getattr(classifier, n).double().numpy() for n in ("square", "linear", "constant"))
    radius = np.full(len(x), np.inf)
    for row, (point, label) in enumerate(zip(x.double().flatten(1).numpy(), y.tolist(), strict=True)):
        for rival in set(range(len(constant))) - {label}:
            form, slope = square[rival] - square[label], linear[rival] - linear[label]
            value = point @ form @ point + slope @ point + constant[rival] - constant[label]
            radius[row] = min(radius[row], _secular(form, slope + 2 * form @ point, value))
    return radius


def _secular(form: np.ndarray, slope: np.ndarray, value: float) -> float:
    """min |r| s.t. value + slopeᵀr + rᵀ form r >= 0: r = (I − t form)⁻¹ slope t / 2 with t in [0, 1 / largest)."""
    if value >= 0:
        return 0.0
    curvature, axes = np.linalg.eigh(form)
    slope, largest = axes.T @ slope, curvature[-1]

    def step(t):
        return slope * t / (2 * (1 - t * curvature))

    def reached(t):
        r = step(t)
        return value + slope @ r + curvature @ r**2

    if largest > 0:
        end = (1 - 1e-13) / largest
        if reached(end) < 0:
            # The hard case: no slope along the steepest axis, so the rest is walked along it, either way.
            return float(np.sqrt(np.sum(step(end) ** 2) - reached(end) / largest))
    else:
        end = 1.0
        while reached(end) < 0:
            end *= 2
            if end > 1e30:
                return np.inf
    low, high = 0.0, end
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= 0 else (middle, high)
    return float(np.linalg.norm(step(high)))


class Grid:
    """The labels and images of a dense grid on the ball |z| <= reach, and where its edges cross a boundary.

    Edges are bisected, so the crossings lie on the boundary itself, `spacing` apart: the distance to a smooth boundary
    is then right to second order, and `radii` refines it along the boundary.
    """

    def __init__(self, generator, classifier, reach: float = 6.0, cells: int = 600):
        self.generator, self.classifier, self.reach = generator, classifier, reach
        self.dim, self.spacing = generator.latent_dim, 2 * reach / cells
        assert self.dim in (1, 2), "a dense grid needs a latent dimension of 1 or 2"
        axis = np.linspace(-reach, reach, cells + 1)
        mesh = np.stack(np.meshgrid(*[axis] * self.dim, indexing="ij"), axis=-1)
        shape = mesh.shape[:-1]
        flat = mesh.reshape(-1, self.dim)
        inside = np.linalg.norm(flat, axis=1) <= reach
        label = np.full(len(flat), -1)
        self.points = flat[inside]
        self.images, label[inside] = self.look(self.points)
        self.label = label[inside]
        label = label.reshape(shape)
        ends = []
        for way in range(self.dim):
            before, after = np.moveaxis(label, way, 0)[:-1], np.moveaxis(label, way, 0)[1:]
            crossed = (before != after) & (before >= 0) & (after >= 0)
            first, second = np.moveaxis(mesh, way, 0)[:-1][crossed], np.moveaxis(mesh, way, 0)[1:][crossed]
            ends += [(before[crossed], first, second), (after[crossed], second, first)]
        self.owner, inner, outer = (np.concatenate(column) for column in zip(*ends, strict=True))
        self.crossings = self.bisect(self.owner, inner, outer)
        self.crossing_images = self.look(self.crossings)[0]

    def look(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, m) and labels (n,) of latents (n, d)."""
        images, labels = [], []
        with torch.no_grad():
            for part in np.array_split(z, len(z) // 100_000 + 1):
                x = self.generator(torch.from_numpy(np.ascontiguousarray(part)))
                images.append(x.flatten(1).numpy())
                labels.append(self.classifier(x).argmax(1).numpy())
        return np.concatenate(images), np.concatenate(labels)

    def bisect(self, owner: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
        """Points of another label than `owner` next to the boundary, on the way from `inner` to `outer`."""
        for _ in range(35):
            middle = (inner + outer) / 2
            out = (self.look(middle)[1] != owner)[:, None]
            inner, outer = np.where(out, inner, middle), np.where(out, middle, outer)
        return outer

    def radii(self, z) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """r_Z (n,), r_in (n,) and their witnesses (n, d), over the ball; `inf` and NaN where it has one label."""
        z = z.detach().double().numpy()
        image, label = self.look(z)
        latent = self._least(label, z, self.crossings, False)
        inner = self._least(label, image, self.crossing_images, True)
        return latent[0], inner[0], latent[1], inner[1]

    def _least(self, label: np.ndarray, centres: np.ndarray, at: np.ndarray, in_image: bool, starts: int = 6):
        """The least distances (n,) from `centres`, whose crossings lie `at`, and their latents (n, d)."""
        rows, begins = [], []
        for row, centre in enumerate(centres):
            own = self.owner == label[row]
            near = _apart(self.crossings[own], np.linalg.norm(at[own] - centre, axis=1), 4 * self.spacing, starts)
            rows += [row] * len(near)
            begins.append(near)
        rows = np.array(rows, dtype=int)
        found = [(rows, *self._along(label[rows], np.concatenate(begins), centres[rows], in_image))]
        if in_image:
            # In the image, the nearest point of another label need not lie at a boundary.
            rows = np.array([row for row in range(len(label)) if (self.label != label[row]).any()], dtype=int)
            nearest = [self.points[self._image_lengths(label[row], centres[row]).argmin()] for row in rows]
            found.append((rows, *self._inside(label[rows], np.reshape(nearest, (-1, self.dim)), centres[rows])))
        best, witness = np.full(len(label), np.inf), np.full((len(label), self.dim), np.nan)
        for row, length, point in zip(*map(np.concatenate, zip(*found, strict=True)), strict=True):
            if length < best[row]:
                best[row], witness[row] = length, point
        return best, witness

    def _image_lengths(self, label: int, centre: np.ndarray) -> np.ndarray:
        return np.where(self.label != label, np.square(self.images - centre).sum(1), np.inf)

    def _lengths(self, label: np.ndarray, points: np.ndarray, centre: np.ndarray, in_image: bool) -> np.ndarray:
        """How far `points` (k, d) are from `centre` (k, d or m); `inf` where they keep `label` or leave the ball."""
        images, labels = self.look(points)
        length = np.linalg.norm((images if in_image else points) - centre, axis=1)
        return np.where((labels != label) & (np.linalg.norm(points, axis=1) <= self.reach), length, np.inf)

    def _along(self, label: np.ndarray, starts: np.ndarray, centre: np.ndarray, in_image: bool):
        """The least lengths (k,) near the crossings `starts` (k, d), sought along the boundary, and where they are."""
        best, at = self._lengths(label, starts, centre, in_image), starts.copy()
        if self.dim == 1 or not len(at):
            return best, at
        span, offsets, rows = 3 * self.spacing, np.linspace(-1, 1, 21), np.arange(len(at))
        label_of, centre_of = (np.repeat(entry, len(offsets), axis=0) for entry in (label, centre))
        for _ in range(6):
            normal = self._normal(label, at)
            tangent = normal[:, ::-1] * [1, -1]
            line = (at[:, None] + span * offsets[:, None] * tangent[:, None]).reshape(-1, 2)
            out = 2 * span * np.repeat(normal, len(offsets), axis=0)
            ends = self.bisect(label_of, line - out, line + out)
            length = self._lengths(label_of, ends, centre_of, in_image).reshape(len(at), -1)
            nearest = length.argmin(1)
            better = length[rows, nearest] < best
            at = np.where(better[:, None], ends.reshape(*length.shape, 2)[rows, nearest], at)
            best, span = np.minimum(best, length[rows, nearest]), span / 5
        return best, at

    def _normal(self, label: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Unit vectors (k, d) along which the margins of the classes `label` (k,) fall."""
        z, own = torch.from_numpy(points.copy()).requires_grad_(), torch.from_numpy(label)[:, None]
        logits = self.classifier(self.generator(z))
        margin = logits.scatter(1, own, -torch.inf).amax(1) - logits.gather(1, own)[:, 0]
        gradient = torch.autograd.grad(margin.sum(), z)[0].numpy()
        return gradient / np.linalg.norm(gradient, axis=1, keepdims=True).clip(1e-300)

    def _inside(self, label: np.ndarray, starts: np.ndarray, centre: np.ndarray):
        """The least image lengths (k,) around the grid points `starts`, and where they are."""
        at, span, rows = starts, 2 * self.spacing, np.arange(len(starts))
        mesh = np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * self.dim, indexing="ij"), -1).reshape(-1, self.dim)
        label_of, centre_of = (np.repeat(entry, len(mesh), axis=0) for entry in (label, centre))
        for _ in range(6):
            points = at[:, None] + span * mesh
            length = self._lengths(label_of, points.reshape(-1, self.dim), centre_of, True).reshape(len(at), -1)
            nearest = length.argmin(1)
            at, best, span = points[rows, nearest], length[rows, nearest], span / 5
        return best, at


def _apart(points: np.ndarray, lengths: np.ndarray, gap: float, count: int) -> np.ndarray:
    """The `count` points of least length of which no two are nearer to each other than `gap`."""
    chosen, left = [], np.argsort(lengths)
    while len(left) and len(chosen) < count:
        chosen.append(left[0])
        left = left[np.linalg.norm(points[left] - points[left[0]], axis=1) > gap]
    return points[chosen]


def grid_radii(generator, classifier, z, reach: float = 6.0, cells: int = 600):
    """r_Z (n,), r_in (n,) and their witnesses (n, d) over |z'| <= reach, for a latent dimension of 1 or 2."""
    return Grid(generator, classifier, reach, cells).radii(z)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relu_network(sizes, seed: int, dtype=torch.float64) -> nn.Sequential:
    """A random ReLU network of these layer sizes, its kinks and its boundaries about where normal points lie."""
    layers, random = [], draws(seed)
    for fan_in, fan_out in itertools.pairwise(sizes):
        layer = nn.Linear(fan_in, fan_out, dtype=torch.float64)
        layer.weight.data = torch.randn(fan_out, fan_in, generator=random, dtype=torch.float64) * (2 / fan_in) ** 0.5
        layer.bias.data = 0.7 * torch.randn(fan_out, generator=random, dtype=torch.float64)
        layers += [layer, nn.ReLU()]
    network = nn.Sequential(*layers[:-1])
    layer.bias.data -= network(torch.randn(1000, sizes[0], generator=random, dtype=torch.float64)).mean(0)
    return network.to(dtype).eval()


class Waves(nn.Module):
    """A smooth generator: random Fourier features of z, mixed to an image."""

    def __init__(self, latent_dim: int, image_dim: int, seed: int, features: int = 12, scale: float = 0.7):
        super().__init__()
        self.latent_dim, random = latent_dim, draws(seed)
        normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
        self.register_buffer("frequency", scale * normal(latent_dim, features))
        self.register_buffer("phase", 3.0 * normal(features))
        self.register_buffer("mix", normal(features, image_dim) / features**0.5)

    def forward(self, z):
        return torch.sin(z @ self.frequency + self.phase) @ self.mix


class Tanh(nn.Module):
    """A random network of one hidden tanh layer; as a generator if it has a `latent_dim`."""

    def __init__(self, inputs: int, outputs: int, seed: int, hidden: int = 16, scale: float = 1.0, latent=False):
        super().__init__()
        random = draws(seed)
        if latent:
            self.latent_dim = inputs
        normal = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)  # noqa: E731
        self.register_buffer("into", scale * normal(inputs, hidden) / inputs**0.5)
        self.register_buffer("shift", normal(hidden))
        self.register_buffer("out", normal(hidden, outputs) / hidden**0.5 * 1.5)

    def forward(self, x):
        return torch.tanh(x.flatten(1) @ self.into + self.shift) @ self.out


def balanced(classifier, images):
    """The classifier with its mean logits on `images` taken off, so that no class takes all."""
    mean = classifier(images).mean(0).detach()
    return lambda x: classifier(x) - mean
