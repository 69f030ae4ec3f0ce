"""Attacks: functions `attack(classifier, x, y, *, ...) -> x_adv`, batch first and never in place.

Rows that an attack could not fool, and rows that were misclassified before it began, come back unchanged; whoever
calls one checks every row again.
"""

from companion.attacks.deepfool import deepfool
from companion.attacks.minimal import minimal_l2
from companion.attacks.penalty import lbfgs
from companion.attacks.saliency import jsma
from companion.attacks.sign import fgsm, logit_ensemble, mi_fgsm

__all__ = ["deepfool", "fgsm", "jsma", "lbfgs", "logit_ensemble", "mi_fgsm", "minimal_l2"]
