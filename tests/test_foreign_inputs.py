"""What must hold when a stranger hands in his arrays: taken as they come, and refused by row, value and rule."""

from __future__ import annotations

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from foreign import InPlace, latents
from foreign_calls import ATTACKS, CALLS, SHORT, X, Y, Z, expected, frozen, same
from torch import nn

from companion.attacks import deepfool, fgsm, minimal_l2
from companion.robustness import in_distribution_radius, latent_radius, unconstrained_radius
from companion.smoothness import lipschitz_at, local_modulus

G, F = frozen()
WHOLE_Z, WHOLE_X = (2 * Z).round().abs(), (9 * X).round()
ARRAYS = {
    "float64": lambda z: z.numpy().astype(np.float64),
    "float32": lambda z: z.numpy(),
    "float16": lambda z: z.numpy().astype(np.float16),
    "big-endian": lambda z: z.numpy().astype(">f8"),
    "negative strides": lambda z: z.numpy()[::-1].copy()[::-1],
    "Fortran order": lambda z: np.asfortranarray(z.numpy()),
    "lists": lambda z: z.tolist(),
    "integers": lambda z: z.numpy().astype(np.int64),
    "small integers": lambda z: z.numpy().astype(np.uint8),
    "integer tensor": lambda z: z.long(),
    "a double tensor": lambda z: z.double(),
}


def asked(generator, classifier, z, x, y) -> list[torch.Tensor]:
    """What comes of these inputs, whatever form they have."""
    return [
        latent_radius(generator, classifier, z, steps=8),
        in_distribution_radius(generator, classifier, z, **SHORT),
        unconstrained_radius(classifier, x, steps=8),
        unconstrained_radius(classifier, x, steps=8, start=x),
        lipschitz_at(generator, z),
        local_modulus(generator, z, [0.1], steps=2),
        *(attack(classifier, x, y) for name, attack in ATTACKS.items() if name != "lbfgs"),
    ]


@functools.cache
def as_tensors() -> list[torch.Tensor]:
    return asked(G, F, WHOLE_Z, WHOLE_X, F(WHOLE_X).argmax(1))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_take_the_networks_dtype(kind, wrapped):
    generator, classifier, y = G, F, F(WHOLE_X).argmax(1).numpy()
    if wrapped:
        generator, classifier = (lambda z: G(z)), (lambda x: F(x))
        generator.latent_dim = 4
    labels = y.tolist() if kind == "lists" else y[::-1].copy()[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = asked(generator, classifier, ARRAYS[kind](WHOLE_Z), ARRAYS[kind](WHOLE_X), labels)
    same(found, as_tensors())


def test_read_only_arrays_are_read_and_nothing_else():
    generator, classifier, arrays = InPlace(G), InPlace(F), [tensor.clone().numpy() for tensor in (Z, X, Y)]
    reference = asked(generator, classifier, Z.clone(), X.clone(), Y)
    for array in arrays:
        array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        same(asked(generator, classifier, *arrays), reference)
    same([torch.tensor(array) for array in arrays], [Z, X, Y])


@pytest.mark.parametrize("dim", [np.int64(4), np.int32(4), torch.tensor(4)])
def test_latent_dim_may_be_any_integer(dim):
    generator = lambda z: G(z)  # noqa: E731
    generator.latent_dim = dim
    same([latent_radius(generator, F, Z, steps=12)], expected("latent_radius")[:1])


@pytest.mark.parametrize("dim", [0, 4.5, True, np.float64(4.5), "4", None])
def test_latent_dim_is_an_integer(dim):
    generator = lambda z: G(z)  # noqa: E731
    generator.latent_dim = dim
    with pytest.raises(ValueError, match="generator must have a positive integer attribute latent_dim"):
        latent_radius(generator, F, Z, steps=12)


@pytest.mark.parametrize("call", CALLS)
def test_any_default_dtype(call):
    reference = expected(call)
    try:
        torch.set_default_dtype(torch.float64)
        found = CALLS[call](G, F, Z)
    finally:
        torch.set_default_dtype(torch.float32)
    same(found, reference)


@pytest.mark.parametrize("call", CALLS)
def test_any_default_device(call):
    """Whatever is made without a device is made on "meta", where nothing can be computed, and so found out."""
    reference = expected(call)
    with torch.device("meta"):
        found = CALLS[call](G, F, Z)
    same(found, reference)


LAYOUTS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "expanded": lambda x: x[:1].expand(6, -1, -1, -1),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "a parameter": lambda x: nn.Parameter(x.clone()),
    "a row of a larger tensor": lambda x: torch.stack([x, x], 4)[..., 1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", ["unconstrained_radius", *ATTACKS])
def test_any_layout(layout, call):
    x = LAYOUTS[layout](X)
    ask = ATTACKS.get(call, lambda f, x, y: unconstrained_radius(f, x, steps=12, return_witness=True)[1])
    y = F(x).argmax(1)
    found = ask(F, x, y)
    same([found], [ask(F, x.detach().clone(memory_format=torch.contiguous_format), y)], rtol=1e-3, atol=1e-3)
    assert not found.requires_grad and x.grad is None


# Errors that name row, argument, value and rule.


def spoiled(tensor, row, value):
    tensor = tensor.clone()
    tensor[row].view(-1)[1 if tensor.ndim > 1 else 0] = value
    return tensor


def undefined_at_nine(x):
    return F(x) + torch.where(x[:, 0, 0, 1:2] == 9, math.nan, 0.0)


class Spoiling(nn.Module):
    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.network = G
        self.eval()

    def forward(self, z):
        return self.network(z) / (z[:, 1] != 9).float().view(-1, 1, 1, 1)


BAD = {
    "outside of the box": (
        lambda: unconstrained_radius(F, spoiled(X, 3, 1 + 1e-7), bounds=(0, 1)),
        r"(?s)bounds.*x.*1\.0000001 in row 3$",
    ),
    "outside of the box, attack": (
        lambda: minimal_l2(F, spoiled(X, 4, -2e-9), Y, bounds=(0, 1)),
        r"(?s)bounds.*x.*-2e-0?9 in row 4$",
    ),
    "NaN in z": (
        lambda: latent_radius(G, F, spoiled(Z, 2, math.nan)),
        r"z .*NaN.*row 2",
    ),
    "infinite z": (
        lambda: lipschitz_at(G, spoiled(Z, 4, -math.inf)),
        r"z .*finite.*-inf in row 4$",
    ),
    "NaN in x": (lambda: fgsm(F, spoiled(X, 5, math.nan), Y, eps=0.1), r"x .*NaN.*row 5"),
    "NaN in start": (
        lambda: minimal_l2(F, X, Y, start=spoiled(X, 1, math.nan)),
        r"start .*NaN.*row 1",
    ),
    "label below": (lambda: minimal_l2(F, X, spoiled(Y, 4, -1)), r"y .*-1 in row 4$"),
    "label above": (lambda: deepfool(F, X, spoiled(Y, 2, 5)), r"y .*K = 5.*5 in row 2$"),
    "NaN logits": (lambda: unconstrained_radius(undefined_at_nine, spoiled(X, 3, 9.0)), r"classifier .*NaN.*row 3"),
    "NaN logits in a later chunk": (
        lambda: unconstrained_radius(undefined_at_nine, spoiled(X, 3, 9.0), steps=3, chunk_size=2),
        r"classifier .*NaN.*row 3",
    ),
    "infinite image": (
        lambda: local_modulus(Spoiling(), spoiled(Z, 3, 9.0), [0.1]),
        r"generator .*finite.*row 3",
    ),
    "several rows": (
        lambda: latent_radius(G, F, spoiled(spoiled(latents(9, 4), 2, math.nan), 7, math.nan)),
        r"(?s)z .*NaN.*nan in rows 2, 7$",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_names_the_row_and_the_value(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("call", [lipschitz_at, functools.partial(local_modulus, t=[0.1, 0.2], steps=2)])
def test_a_long_call_can_show_its_progress(call, capsys):
    call(G, latents(20, 4), chunk_size=5)
    assert capsys.readouterr() == ("", "")
    call(G, latents(20, 4), chunk_size=5, progress=True)
    assert "20/20" in capsys.readouterr().err
