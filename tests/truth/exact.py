"""Exact unconstrained radii: small ReLU networks and quadratic logits."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
from scipy.optimize import nnls
from torch import nn

from .networks import Quadratic


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
    assert kinds == [nn.Linear, nn.ReLU] * (len(kinds) // 2) + [nn.Linear] and len(kinds) > 1, (
        f"not a ReLU network: {kinds}"
    )
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


def quadratic_radius(classifier: Quadratic, x, y) -> np.ndarray:
    """Exact r_unc (n,) of quadratic logits: the nearest of the boundaries to the other classes."""
    square, linear, constant = (getattr(classifier, n).double().numpy() for n in ("square", "linear", "constant"))
    points, labels, radius = x.double().flatten(1).numpy(), y.numpy(), np.full(len(x), np.inf)
    for label in np.unique(labels):
        others = np.arange(len(constant)) != label
        form, slope, value = ((entry - entry[label])[others] for entry in (square, linear, constant))
        curvature, axes = np.linalg.eigh(form)
        for row in np.flatnonzero(labels == label):
            height = value + slope @ points[row] + np.einsum("i,kij,j->k", points[row], form, points[row])
            gradient = np.einsum("kij,ki->kj", axes, slope + 2 * form @ points[row])
            radius[row] = _secular(curvature, gradient, height).min()
    return radius


def _secular(curvature: np.ndarray, slope: np.ndarray, value: np.ndarray) -> np.ndarray:
    """min |r| (k,) s.t. value + slopeᵀr + Σ curvature r² >= 0, for k quadrics on their axes, (k, m) and (k,).

    r = (I − t C)⁻¹ slope t / 2 solves it for the t in [0, 1 / largest curvature) that reaches the boundary.
    """

    def step(t):
        return slope * t[:, None] / (2 * (1 - t[:, None] * curvature))

    def reached(t):
        r = step(t)
        return value + (slope * r + curvature * r**2).sum(1)

    largest = curvature[:, -1]
    low, high = np.zeros_like(value), np.where(largest > 0, (1 - 1e-13) / np.where(largest > 0, largest, 1), 1e12)
    # The hard case: no slope along the steepest axis, so that the rest is walked along it, either way.
    missing = np.maximum(-reached(high), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        walked = np.where(missing > 0, missing / np.maximum(largest, 0), 0)
    for _ in range(100):
        middle = (low + high) / 2
        over = reached(middle) >= 0
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return np.where(value >= 0, 0.0, np.sqrt((step(high) ** 2).sum(1) + walked))
