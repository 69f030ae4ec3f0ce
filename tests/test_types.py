"""The types that the package promises: checked strictly inside, and as a strict user of it sees them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

USER = """
import torch
from companion import attacks, certificates, circle, models, projection, robustness, smoothness, transferability
from companion import vulnerability

def classifier(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)[:, :10]

generator = models.load("digits/generator")
z = torch.randn(3, 16)
reveal_type(robustness.latent_radius(generator, classifier, z))
reveal_type(robustness.latent_radius(generator, classifier, z.numpy(), return_witness=True))
reveal_type(robustness.radii(generator, classifier, [[0.0] * 16]).latent)
reveal_type(transferability.joint_radius([classifier], z, z, return_witness=True))
reveal_type(vulnerability.robustness_quantile(0.25, [0.5, 0.5], smoothness.Lipschitz(1)))
reveal_type(circle.exact_radii(circle.HalfPlane([1.0, 0.0]), 0.3))
reveal_type(attacks.minimal_l2(projection.ProjectedClassifier(generator, classifier), z, [0, 1, 2], bounds=(0, 1)))
reveal_type(certificates.certified_lipschitz(generator, (16,)).inverse(0.5))
"""


def mypy(*arguments, **options):
    command = [sys.executable, "-m", "mypy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_package_is_clean_under_mypy_strict():
    found = mypy("--strict", cwd=ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_strict_user_sees_types_and_no_complaint(tmp_path):
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    cache = f"--cache-dir={ROOT / '.mypy_cache'}"
    environment = os.environ | {"MYPYPATH": "", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    found = mypy("--strict", cache, "user.py", cwd=tmp_path, env=environment)
    assert found.returncode == 0, found.stdout + found.stderr
    seen = [line.split('"')[1] for line in found.stdout.splitlines() if "Revealed type" in line]
    one = "torch._tensor.Tensor"
    two, three = (f"tuple[{', '.join([one] * count)}]" for count in (2, 3))
    assert seen == [one, two, one, two, one, three, one, one], found.stdout


def test_a_wrong_argument_is_seen_before_it_runs(tmp_path):
    (tmp_path / "user.py").write_text(
        "from companion import models, robustness\nrobustness.latent_radius(models.load('x'), 'no model', 1.0)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    found = mypy("--strict", f"--cache-dir={ROOT / '.mypy_cache'}", "user.py", cwd=tmp_path, env=environment)
    assert found.returncode == 1 and "str" in found.stdout
