"""Things to play with, in a live notebook (Python reads and sets their values) and on the static page of the book."""

from companion.widgets._base import data, javascript, modules, registry
from companion.widgets.approximation import ApproximationWidget
from companion.widgets.attack import AttackWidget
from companion.widgets.audit import AuditWidget
from companion.widgets.certificates import CertificatesWidget
from companion.widgets.circle import CircleWidget
from companion.widgets.isoperimetry import IsoperimetryWidget
from companion.widgets.latent import LatentWidget
from companion.widgets.matrix import MatrixWidget
from companion.widgets.modulus import ModulusWidget
from companion.widgets.photograph import PhotographWidget
from companion.widgets.projection import ProjectionWidget
from companion.widgets.robustness import RobustnessWidget
from companion.widgets.theorem1 import Theorem1Widget
from companion.widgets.tightness import TightnessWidget
from companion.widgets.transferability import TransferabilityWidget
from companion.widgets.walk import WalkWidget

__all__ = [
    "ApproximationWidget",
    "AttackWidget",
    "AuditWidget",
    "CertificatesWidget",
    "CircleWidget",
    "IsoperimetryWidget",
    "LatentWidget",
    "MatrixWidget",
    "ModulusWidget",
    "PhotographWidget",
    "ProjectionWidget",
    "RobustnessWidget",
    "Theorem1Widget",
    "TightnessWidget",
    "TransferabilityWidget",
    "WalkWidget",
    "data",
    "javascript",
    "modules",
    "registry",
]
