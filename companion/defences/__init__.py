"""Defences of the arms race, the substitutes of an attacker who sees only labels, and what breaks hidden gradients.

A defence is again a classifier (n, *image) -> (n, K) logits: every attack takes it as it is.
"""

from companion.defences.adversarial import ensemble_adversarial_training
from companion.defences.diagnosis import Diagnosis, diagnose
from companion.defences.distillation import distill
from companion.defences.masking import RandomActivations, bpda, eot, quantise
from companion.defences.surrogates import substitute

__all__ = [
    "Diagnosis",
    "RandomActivations",
    "bpda",
    "diagnose",
    "distill",
    "ensemble_adversarial_training",
    "eot",
    "quantise",
    "substitute",
]
