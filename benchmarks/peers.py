"""The other libraries' minimal-norm L2 attacks, each as `attack(classifier, x, y)` for a budget of gradients per image.

Settings are the libraries' own, except where those cost quality: DDN without quantised pixels, FMN also with a tenth of
its step, TR with adaptive steps or with longer ones (of 0.001 a thousand do not reach every boundary), BB from the
points of a short DDN (its own start, noise blended in, costs a thousand forward passes). Attacks that take a gradient
for each of K classes get that many fewer steps; what an attack spends on its start is part of its budget.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from functools import cache
from importlib.metadata import version

import torch

LIBRARIES = {
    "adv-lib": "adv-lib",
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "ART": "adversarial-robustness-toolbox",
}
# Bisections and steps in each (and targets), so that no image takes more gradients than the budget.
APGD = {30: (5, 5), 100: (7, 13), 300: (10, 29), 1000: (13, 75)}
APGD_TARGETED = {300: (10, 9, 3), 1000: (13, 24, 3)}


def versions() -> dict[str, str]:
    return {name: version(package) for name, package in LIBRARIES.items()}


def attacks(budget: int, classes: int) -> dict:
    """{(library, attack): call} for the attacks that can be told to stop after `budget` gradients per image."""
    adv = _adv_lib()
    found = {
        ("adv-lib", "DDN"): lambda f, x, y: adv.ddn(f, x, y, steps=budget, levels=None),
        ("adv-lib", "ALMA"): lambda f, x, y: adv.alma(f, x, y, num_steps=budget),
        ("adv-lib", "ALMA, first step 1"): lambda f, x, y: adv.alma(f, x, y, num_steps=budget, init_lr_distance=1.0),
        ("adv-lib", "PDGD"): lambda f, x, y: adv.pdgd(f, x, y, num_steps=budget),
        ("adv-lib", "FMN"): lambda f, x, y: adv.fmn(f, x, y, norm=2, steps=budget),
        ("adv-lib", "FMN, step 0.1"): lambda f, x, y: adv.fmn(f, x, y, norm=2, steps=budget, α_init=0.1),
        ("foolbox", "DDN"): _foolbox("DDNAttack", steps=budget),
        ("foolbox", "FMN"): _foolbox("L2FMNAttack", steps=budget),
        ("torchattacks", "C&W"): _torchattacks("CW", steps=budget, lr=0.01),
    }
    if budget >= classes:
        linearised = budget // (classes - 1)
        found["adv-lib", "FAB"] = lambda f, x, y: adv.fab(f, x, y, norm=2, n_iter=linearised, targeted=False)
    if budget >= 30:
        found["foolbox", "DDN, then BB"] = _brendel_bethge(budget // 5, budget - budget // 5)
    if budget in APGD:
        found["adv-lib", "APGD"] = _apgd(*APGD[budget])
    if budget in APGD_TARGETED:
        found["adv-lib", "APGD, targeted"] = _apgd(*APGD_TARGETED[budget])
    if budget >= 100:
        found["foolbox", "C&W"] = _foolbox("L2CarliniWagnerAttack", binary_search_steps=5, steps=budget // 5)
    return found


def fixed(classes: int) -> dict:
    """{(library, attack): call} for the attacks that stop by themselves."""
    adv = _adv_lib()
    return {
        ("adv-lib", "DeepFool"): lambda f, x, y: adv.df(f, x, y, steps=50),
        ("adv-lib", "SuperDeepFool"): lambda f, x, y: adv.sdf(f, x, y),
        ("adv-lib", "TR, adaptive"): lambda f, x, y: adv.tr(f, x, y, adaptive=True, c=classes - 1),
        ("adv-lib", "TR, step 0.05"): lambda f, x, y: adv.tr(f, x, y, eps=0.05, c=classes - 1),
        ("adv-lib", f"APGD, targeted, {classes - 1} × 14 × 50"): _apgd(14, 50, classes - 1),
        ("foolbox", "DeepFool"): _foolbox("L2DeepFoolAttack"),
        ("torchattacks", "DeepFool"): _torchattacks("DeepFool"),
        ("ART", "DeepFool"): _art("DeepFool", classes, max_iter=50),
        ("ART", "C&W"): _art("CarliniL2Method", classes),
    }


def _adv_lib():
    # adv-lib imports these two for a perceptual distance and a plotting server that no attack here asks for. Where
    # they are missing, an empty module stands in, and would fail loudly if it were used.
    for name in ("torchvision", "visdom"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].models = None
    import adv_lib.attacks

    return adv_lib.attacks


def _foolbox(name: str, **options):
    import foolbox

    def attack(classifier, x, y):
        model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device=x.device)
        return getattr(foolbox.attacks, name)(**options)(model, x, y, epsilons=None)[0]

    return attack


def _apgd(searches: int, steps: int, targets: int | None = None):
    """Minimal APGD: so many bisections of the radius, each with a start and so many steps (towards each target)."""
    _adv_lib()
    from adv_lib.attacks.auto_pgd import minimal_apgd

    targeted = dict(targeted_version=True, num_targets=targets) if targets else {}
    return lambda f, x, y: minimal_apgd(
        f, x, y, norm=2, max_eps=1.0, binary_search_steps=searches, n_iter=steps, **targeted
    )


def _brendel_bethge(start: int, steps: int):
    """Brendel and Bethge's walk along the boundary, from the points of `start` steps of DDN."""
    import foolbox

    def attack(classifier, x, y):
        ddn = foolbox.attacks.DDNAttack(steps=start)
        return _foolbox("L2BrendelBethgeAttack", init_attack=ddn, steps=steps)(classifier, x, y)

    attack.warm_up = _compile_brendel_bethge
    return attack


@cache
def _compile_brendel_bethge() -> None:
    """Foolbox compiles this attack at its first use, which takes a minute that is not the attack's."""
    classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)).eval()
    x = torch.full((2, 1, 2, 2), 0.5)
    _brendel_bethge(10, 5)(classifier, x, classifier(x).argmax(1))


def _torchattacks(name: str, **options):
    import torchattacks

    return lambda classifier, x, y: getattr(torchattacks, name)(classifier, **options)(x, y)


def _art(name: str, classes: int, **options):
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    def attack(classifier, x, y):
        model = PyTorchClassifier(
            classifier,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if x.is_cuda else "cpu",
        )
        one_hot = torch.nn.functional.one_hot(y, classes).cpu().numpy()
        call = getattr(evasion, name)(model, batch_size=len(x), verbose=False, **options)
        return torch.from_numpy(call.generate(x.cpu().numpy(), one_hot)).to(x)

    return attack
