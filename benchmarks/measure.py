"""What every attack is measured with: passes are counted, images verified, clocks interleaved."""

from __future__ import annotations

import math
import platform
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

# An image this far outside of the box is put back in before it is verified: rounding of x + r. Farther is a failure.
BOX_ROUNDING = 1e-6


class Counted(nn.Module):
    """A classifier that counts, in rows, what passes through it: `forward` and `backward`."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier
        self.forward_rows = self.backward_rows = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(x)
        self.forward_rows += len(x)
        if logits.requires_grad:
            # Called once for each gradient that is asked of these logits; finished rows in the batch are paid too.
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


def distances(classifier, x: Tensor, y: Tensor, adversarial: Tensor, bounds=(0.0, 1.0)) -> Tensor:
    """The L2 distances (n,) of adversarial images, `inf` for each that is none.

    A row counts only if it is finite, inside the box, and not classified as `y`, in the whole batch and in small ones.
    """
    n = len(x)
    if adversarial.shape != x.shape:
        raise ValueError(f"adversarial must have the shape of x, {tuple(x.shape)}, got {tuple(adversarial.shape)}")
    finite = adversarial.isfinite().flatten(1).all(1)
    inside = adversarial.clamp(*bounds)
    off = (adversarial - inside).abs().flatten(1).amax(1)
    with torch.no_grad():
        whole = classifier(inside).argmax(1)
        parts = torch.cat([classifier(part).argmax(1) for part in inside.split(max(1, n // 7))])
    good = finite & (off <= BOX_ROUNDING) & (whole != y) & (parts != y)
    return torch.where(good, (inside - x).flatten(1).norm(dim=1), torch.inf)


def machine(device: str) -> str:
    """The name of the processor that runs the attacks."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    found = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{found[0] if found else platform.processor()}, {torch.get_num_threads()} thread"


class Clock:
    """Seconds since it was made: wall time on a GPU; on a CPU the time of this process, which others do not disturb."""

    def __init__(self, device: torch.device):
        self.device = device
        self.start = self._now()

    def seconds(self) -> float:
        return self._now() - self.start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


class Outcome(NamedTuple):
    """One attack on one classifier: distances (n,), passes and seconds for each image."""

    distance: Tensor
    forward: float
    backward: float
    seconds: float


def outcome(attack, classifier, x: Tensor, y: Tensor, bounds=(0.0, 1.0)) -> Outcome:
    """Run `attack(classifier, x, y)` once."""
    counted = Counted(classifier)
    clock = Clock(x.device)
    adversarial = attack(counted, x.clone(), y.clone()).detach()
    seconds = clock.seconds()
    distance = distances(classifier, x, y, adversarial, bounds)
    return Outcome(distance, counted.forward_rows / len(x), counted.backward_rows / len(x), seconds / len(x))


def summary(distance: Tensor, best: Tensor) -> dict:
    """How good distances (n,) are beside the `best` known ones (n,); failures are infinite.

    Success rate, median (the lower of the two in the middle), mean, the fractions within 1 % and 2 % of `best`, and the
    optimality of AttackBench.
    """
    finite = bool(distance.isfinite().all())
    return {
        "success": distance.isfinite().double().mean().item(),
        "median": distance.median().item(),
        "mean": distance.double().mean().item() if finite else math.inf,
        "near1": (distance <= 1.01 * best).double().mean().item(),
        "near2": (distance <= 1.02 * best).double().mean().item(),
        "optimality": optimality(distance, best),
    }


def optimality(distance: Tensor, best: Tensor) -> float:
    """The area above the attack's curve of robust accuracy against radius, as a fraction of that above the best curve.

    1 for an attack that is never longer than `best`, 0 for one that fools nothing within the largest of `best`, where
    the curves end. The area under a curve is the mean of the distances, cut off there; all images begin as classified
    rightly. NaN if all of `best` are equal. Source: Cinà et al. (2025), equations 4 and 5.
    """
    end = best[best.isfinite()].max()
    found, known = (end - distances.clamp(max=end).mean() for distances in (distance, best))
    return (found / known).item()
