"""DeepFool: the boundary is taken for flat, again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from companion import _validation as check
from companion._calls import guarded, working
from companion._types import Box, Model, Numbers
from companion.attacks.boundary import Boundary
from companion.attacks.minimal import check_labels, checked, settle


def deepfool(
    classifier: Model,
    x: Numbers,
    y: Numbers,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    rivals: int = 9,
    bounds: Box | None = None,
) -> Tensor:
    """DeepFool: step to the nearest boundary of the linearised classifier until the label changes.

    Args:
        classifier: (n, *image) -> (n, K) logits.
        x: (n, *image) images.
        y: (n,) their labels; a row is fooled once it is classified otherwise.
        steps: most linearisations per row.
        overshoot: the perturbation is lengthened by this factor, to land beyond the boundary.
        rivals: the classes whose boundaries are considered, those with the largest logits at the image; each costs a
            gradient a step.
        bounds: None, or the pixel box (low, high).

    Returns:
        (n, *image) adversarial images; rows that were not fooled come back unchanged.

    Source: Moosavi-Dezfooli et al. (2016), algorithm 2.
    """
    x, y, box, steps, *_ = checked(x, y, bounds, steps, None, None)
    overshoot = check.tensor("overshoot", overshoot, minimum=0.0).item()
    rivals = check.integer("rivals", rivals, minimum=1)
    if not len(x):
        return x.clone()
    with guarded("classifier", classifier, x) as (call, x):
        check_labels(call, x, y)
        boundary = Boundary(call, working(x), y, bounds=box)
        found = _search(boundary, steps, overshoot, rivals).reshape(x.shape).to(x.dtype)
        return settle(call, x, y, found, rows=boundary.every, bounds=box)


def _search(boundary: Boundary, steps: int, overshoot: float, rivals: int) -> Tensor:
    result = boundary.origin.clone()
    logits = boundary.call.of(boundary.images(result, boundary.every), boundary.rows)
    classes = logits.scatter(1, boundary.y[:, None], -torch.inf).topk(min(rivals, logits.shape[1] - 1), dim=1).indices
    rows = torch.nonzero(logits.argmax(1) == boundary.y)[:, 0]
    total, first = torch.zeros_like(result[rows]), logits.topk(2, dim=1).values.diff(dim=1).abs()
    for _ in range(steps):
        if not len(rows):
            break
        origin = boundary.origin[rows]
        point = boundary.clip(origin + (1 + overshoot) * total)
        gap, _, normal, _ = boundary.gradient(point, rows, classes[rows])
        length = normal.norm(dim=2)
        # Never quite on the boundary: there, clipping to the box would stall it.
        distance, target = ((gap.abs() + 1e-5 * first[rows]) / length).nan_to_num(nan=torch.inf).min(1)
        every = torch.arange(len(rows), device=rows.device)
        direction = normal[every, target] / length[every, target, None]
        total = total + (distance[:, None] * direction).where(distance.isfinite()[:, None], torch.zeros_like(total))
        point = boundary.clip(origin + (1 + overshoot) * total)
        done = boundary.height(point, rows) > 0
        result[rows[done]] = point[done]
        # A row without any gradient cannot move: it is given up.
        going = ~done & distance.isfinite()
        rows, total = rows[going], total[going]
    return result
