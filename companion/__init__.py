"""Bounds and attacks for *Adversarial vulnerability for any classifier* (Fawzi, Fawzi & Fawzi, NeurIPS 2018).

    z ~ N(0, I)  ->  generator g  ->  image x  ->  classifier f  ->  logits  ->  label

A generator is any callable (n, d) -> (n, *image) with an integer attribute `latent_dim`; a classifier is any
callable (n, *image) -> (n, K) logits. Every idea of the book is one module of this package.
"""

from companion import (
    approximation,
    arms_race,
    attacks,
    certificates,
    circle,
    defences,
    models,
    projection,
    robustness,
    scale,
    smoothness,
    tightness,
    transferability,
    vulnerability,
)

__all__ = [
    "approximation",
    "arms_race",
    "attacks",
    "certificates",
    "circle",
    "defences",
    "models",
    "projection",
    "robustness",
    "scale",
    "smoothness",
    "tightness",
    "transferability",
    "vulnerability",
]
__version__ = "0.1.0"
