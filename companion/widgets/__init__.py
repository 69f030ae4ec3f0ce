"""Things to play with, in a live notebook (Python reads and sets their values) and on the static page of the book."""

from companion.widgets._base import javascript, modules, registry
from companion.widgets.approximation import ApproximationWidget
from companion.widgets.audit import AuditWidget
from companion.widgets.circle import CircleWidget
from companion.widgets.isoperimetry import IsoperimetryWidget
from companion.widgets.modulus import ModulusWidget
from companion.widgets.projection import ProjectionWidget
from companion.widgets.robustness import RobustnessWidget
from companion.widgets.theorem1 import Theorem1Widget
from companion.widgets.tightness import TightnessWidget
from companion.widgets.transferability import TransferabilityWidget

__all__ = [
    "ApproximationWidget",
    "AuditWidget",
    "CircleWidget",
    "IsoperimetryWidget",
    "ModulusWidget",
    "ProjectionWidget",
    "RobustnessWidget",
    "Theorem1Widget",
    "TightnessWidget",
    "TransferabilityWidget",
    "javascript",
    "modules",
    "registry",
]
