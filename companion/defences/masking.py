"""Defences that only hide the gradient, and the two ways around them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from companion import _validation as check
from companion._types import Box, Model, Numbers

# Pixels of one call of a random classifier, at most, unless one draw has more: 4,096 digits, 85 photographs.
_NUMBERS = 2**18


def quantise(x: Numbers, *, levels: int = 5, bounds: Box = (0.0, 1.0)) -> Tensor:
    """Round every pixel to the nearest of `levels` equally spaced values.

    Its derivative is zero almost everywhere, so `lambda x: f(quantise(x))` has no gradient to follow.

    Args:
        x: (n, *image) images.
        levels: at least 2, the ends of the box among them.
        bounds: the box (low, high).

    Source: a pre-processing as in Guo et al. (2018), section 4 (bit-depth reduction).
    """
    x, levels = check.tensor("x", x), check.integer("levels", levels, minimum=2)
    box = check.box("bounds", bounds, x[:0])
    if box is None:
        raise ValueError("bounds must be a pair (low, high), got None")
    low, high = box
    scale = (levels - 1) / (high - low)
    return low + ((x - low) * scale).round() / scale


class RandomActivations:
    """A network that drops its activations at random, at every call others, and scales up the rest.

    After each `torch.nn.ReLU` an activation is kept with probability `keep` and divided by it. One call is one draw;
    `eot(RandomActivations(f), draws=32)` answers with the mean of 32.

    Args:
        network: an `nn.Sequential` (n, *image) -> (n, K) with ReLUs, in evaluation mode.
        keep: in (0, 1).
        seed: seeds the draws; the k-th call after construction always makes the same draws.

    Source: in the manner of Dhillon et al. (2018), Stochastic activation pruning, with equal chances.
    """

    def __init__(self, network: nn.Sequential, *, keep: float = 0.3, seed: int = 0) -> None:
        check.network("network", network)
        if not isinstance(network, nn.Sequential) or not any(isinstance(layer, nn.ReLU) for layer in network):
            raise ValueError(f"network must be an nn.Sequential with ReLU layers, got {network!r}")
        self.network, self.keep = network, check.fraction("keep", keep).item()
        self.seed = check.integer("seed", seed, minimum=0)
        self.random = torch.Generator("cpu").manual_seed(self.seed)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.network:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                # Drawn on the CPU: the same numbers on every device.
                kept = torch.rand(x.shape, generator=self.random, device="cpu") < self.keep
                x = x * kept.to(x) / self.keep
        return x


def bpda(forward: Model, backward: Model | None = None) -> Model:
    """Backward pass differentiable approximation: `forward` going in, the gradient of `backward` coming back.

    Attack `lambda x: f(bpda(quantise)(x))` instead of `lambda x: f(quantise(x))`.

    Args:
        forward: (n, *image) -> anything of the shape of `backward`'s value; need not be differentiable.
        backward: a differentiable stand-in for it; by default the identity, for a `forward` that changes little.

    Returns:
        A function with the values of `forward` and the gradient of `backward`.

    Source: Athalye et al. (2018), section 4.1.
    """
    for name, function in (("forward", forward), ("backward", backward)):
        if not callable(function) and not (function is None and name == "backward"):
            raise ValueError(f"{name} must be callable, got {function!r}")

    return _PassedThrough(forward, backward)


class _PassedThrough:
    """What `bpda` returns."""

    def __init__(self, forward: Model, backward: Model | None) -> None:
        self.forward, self.backward = forward, backward

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.forward(x.clone())
        stand_in = x if self.backward is None else self.backward(x)
        if not isinstance(value, Tensor) or value.shape != stand_in.shape:
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"forward must return shape {tuple(stand_in.shape)} as its stand-in, got {found}")
        # stand_in - stand_in is an exact zero, so that not a bit of the value changes.
        return value + (stand_in - stand_in.detach())


def eot(classifier: Model, *, draws: int = 32) -> Model:
    """Expectation over transformation: the mean logits of `draws` calls of a random classifier.

    Its gradient is the mean gradient. That is what an attack on a random classifier should follow, and also what a
    random classifier that answers with a mean has.

    Args:
        classifier: (n, *image) -> (n, K) logits, others at every call.
        draws: number of calls.

    Source: Athalye et al. (2018), section 4.2.
    """
    check.network("classifier", classifier)
    draws = check.integer("draws", draws, minimum=1)

    return _Averaged(classifier, draws)


class _Averaged:
    """What `eot` returns. Attacks do not refuse it for being random, as they would another function."""

    averages_draws = True

    def __init__(self, classifier: Model, draws: int) -> None:
        self.classifier, self.draws = classifier, draws

    def __call__(self, x: Tensor) -> Tensor:
        # Several draws in one call, for the random numbers differ from row to row; not all of a large batch at once,
        # whose activations would fill the memory.
        together = max(1, _NUMBERS // max(1, x.numel()))
        repeats = [min(together, self.draws - done) for done in range(0, self.draws, together)]
        logits = torch.cat([self.classifier(x.repeat(count, *[1] * (x.ndim - 1))) for count in repeats])
        return logits.reshape(self.draws, len(x), logits.shape[1]).mean(0)
