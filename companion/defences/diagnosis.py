"""Does a defence resist, or does it hide its gradient? The published symptoms, as an automatic checklist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from companion import _validation as check
from companion._types import Box, Model, Numbers
from companion.attacks.margin import checked, misclassified
from companion.attacks.sign import fgsm, loss_gradient


class Diagnosis(NamedTuple):
    """What `diagnose` found. A rate is the share of the rightly classified rows that an attack fooled.

    Attributes:
        symptoms: symptom -> whether it was seen; "black box beats white box" only if a black-box attack was given.
        rates: attack -> success rate, float in [0, 1].
        flat: share of the rows at which the gradient of the loss is exactly zero.
        rows: number of rightly classified rows, on which all this rests.
    """

    symptoms: dict[str, bool]
    rates: dict[str, float]
    flat: float
    rows: int

    @property
    def masked(self) -> bool:
        """True if any symptom was seen; then the robustness shown by gradient attacks is not to be believed."""
        return any(self.symptoms.values())


def diagnose(
    classifier: Model,
    x: Numbers,
    y: Numbers,
    *,
    eps: float,
    bounds: Box | None,
    black_box: Mapping[str, Tensor] | None = None,
    answer: Model | None = None,
    steps: int = 20,
    samples: int = 200,
    tolerance: float = 0.02,
    seed: int = 0,
) -> Diagnosis:
    """Attack a classifier by its gradient, and look for the signs that the gradient is no guide.

    - *iterative worse than single-step*: many small steps fool fewer rows than one large step.
    - *unbounded attack short of 100 %*: with the whole pixel box to move in, some rows are still not fooled.
    - *random search beats gradient*: uniform noise of the same size fools rows where the gradient does not.
    - *black box beats white box*: perturbations made for another network fool more rows.
    - *loss flat*: the gradient of the loss is exactly zero at some rows.

    Absence of symptoms proves nothing; a symptom means: look for another attack.

    Args:
        classifier: (n, *image) -> (n, K) logits, the defence with the gradient it offers.
        x: (n, *image) images.
        y: (n,) their labels; rows that are misclassified to begin with are left out.
        eps: L∞ budget of the bounded attacks.
        bounds: the pixel box (low, high).
        black_box: name -> (n, *image) perturbed images made without `classifier`, within the same budget.
        answer: the classifier that is deployed, if it is another function than the one that offers the gradient (the
            mean of a random classifier, say); it decides what is fooled.
        steps: gradients a row of the iterated attacks.
        samples: points a row of the random search.
        tolerance: differences of rates up to this are taken for chance; at least 0.
        seed: seeds the random search.

    Returns:
        A `Diagnosis`.

    Source: Athalye et al. (2018), section 3.1.
    """
    x, y, bounds = checked(classifier, x, y, bounds)
    if bounds is None:
        raise ValueError("bounds must be a pair (low, high) for diagnose, got None")
    eps, samples = check.positive("eps", eps), check.integer("samples", samples, minimum=1)
    steps = check.integer("steps", steps, minimum=2)
    tolerance = check.tensor("tolerance", tolerance, minimum=0.0).item()
    answer = classifier if answer is None else answer
    black_box = {name: check.images(f"black_box[{name!r}]", image).to(x) for name, image in (black_box or {}).items()}
    for name, image in black_box.items():
        if image.shape != x.shape:
            shapes = f"{tuple(x.shape)}, got {tuple(image.shape)}"
            raise ValueError(f"black_box[{name!r}] must have the shape of x, {shapes}")
    right = ~misclassified(answer, x, y)
    x, y = x[right], y[right]
    black_box = {name: image[right] for name, image in black_box.items()}
    if not len(x):
        return Diagnosis({}, {}, 0.0, 0)

    def fools(image: Tensor) -> Tensor:
        with torch.no_grad():
            return answer(image.clone()).argmax(1) != y

    # Every point is tried on what is deployed, also where the function that offers the gradient was not fooled.
    options: dict[str, Any] = dict(bounds=bounds, keep_failed=True)
    single = fools(fgsm(classifier, x, y, eps=eps, **options))
    iterated = fools(fgsm(classifier, x, y, eps=eps, steps=steps, **options))
    span = bounds[1] - bounds[0]
    unbounded = iterated | fools(fgsm(classifier, x, y, eps=span, steps=steps, **options))
    draws = torch.Generator("cpu").manual_seed(check.integer("seed", seed, minimum=0))
    random = torch.zeros_like(single)
    for _ in range(samples):
        noise = eps * (2 * torch.rand(x.shape, generator=draws, dtype=torch.float64, device="cpu").to(x) - 1)
        random |= fools((x + noise).clamp(*bounds))
    others = {name: fools(image) for name, image in black_box.items()}
    found = {"single step": single, "iterated": iterated, "unbounded": unbounded, "random": random, **others}
    rates = {name: fooled.double().mean().item() for name, fooled in found.items()}
    flat = (loss_gradient(classifier, x, y)[1].flatten(1) == 0).all(1).double().mean().item()
    symptoms = {
        "iterative worse than single-step": rates["iterated"] < rates["single step"] - tolerance,
        "unbounded attack short of 100 %": rates["unbounded"] < 1 - tolerance,
        "random search beats gradient": (random & ~iterated & ~single).double().mean().item() > tolerance,
        "loss flat": flat > tolerance,
    }
    if others:
        white = max(rates["single step"], rates["iterated"])
        symptoms["black box beats white box"] = max(rates[name] for name in others) > white + tolerance
    return Diagnosis(symptoms, rates, flat, len(x))
