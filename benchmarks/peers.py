"""The other libraries' minimal-norm L2 attacks, each as `attack(classifier, x, y)` for a budget of gradients per image.

Settings are the libraries' own, except where those cost quality: DDN without quantised pixels, FMN also with a tenth of
its step. Attacks that take a gradient for each of K classes get that many fewer steps.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from importlib.metadata import version

import torch

LIBRARIES = {
    "adv-lib": "adv-lib",
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "ART": "adversarial-robustness-toolbox",
}


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
    if budget >= 100:
        found["foolbox", "C&W"] = _foolbox("L2CarliniWagnerAttack", binary_search_steps=5, steps=budget // 5)
    return found


def fixed(classes: int) -> dict:
    """{(library, attack): call} for the attacks that stop by themselves."""
    adv = _adv_lib()
    return {
        ("adv-lib", "DeepFool"): lambda f, x, y: adv.df(f, x, y, steps=50),
        ("adv-lib", "SuperDeepFool"): lambda f, x, y: adv.sdf(f, x, y),
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
