"""Attacks: functions `attack(classifier, x, y, *, ...) -> x_adv`, batch first and never in place.

Rows that an attack could not fool, and rows that were misclassified before it began, come back unchanged; whoever
calls one checks every row again.
"""

from companion.attacks.minimal import deepfool, minimal_l2

__all__ = ["deepfool", "minimal_l2"]
