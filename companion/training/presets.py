"""Numbers of the recipes for CIFAR-10 and SVHN: how wide the networks are and how long they are trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Classifier:
    """Recipe of a classifier: SGD with Nesterov momentum, a triangular schedule, label smoothing, a running average.

    Attributes:
        architecture: as `companion.models` builds it.
        epochs: passes over the training images.
        rate: the largest learning rate.
        batch_size: images a step.
        weight_decay: L2 penalty on all weights.
        smoothing: label smoothing.
        average: the most that a step's running average keeps of the one before.
        attack_steps: if above 0, every batch is first attacked by so many steps of projected gradient ascent in L∞,
            radius 8/255, from a random start.
        start: the classifier whose weights it begins with, or None.
        checkpoint_every: steps between checkpoints, and between lines of the log.
        images: train on the first so many images only, or None.
        judged: test images that are looked at in the end.
    """

    architecture: dict
    epochs: int
    rate: float = 0.2
    batch_size: int = 128
    weight_decay: float = 5e-4
    smoothing: float = 0.1
    average: float = 0.998
    attack_steps: int = 0
    start: str | None = None
    checkpoint_every: int = 100
    images: int | None = None
    judged: int = 10_000


@dataclass(frozen=True)
class Gan:
    """Recipe of a generator: a DCGAN whose critic learns labels too.

    Attributes:
        architecture: as `companion.models` builds it.
        judge: the classifier whose features measure the images in the end.
        steps: steps of the critic and of the generator.
        critic_width: channels of the critic's first layer.
        rate: learning rate of both, constant for half of the run, then falling to zero.
        batch_size: real images a step, and as many generated ones.
        penalty: weight of the R1 penalty on the critic's slope.
        entropy: weight of the labels in the generator's loss.
        average: the most that a step's running average keeps of the one before.
        checkpoint_every: steps between checkpoints, and between lines of the log.
        images: train on the first so many images only, or None.
        judged: test images that are looked at in the end, and as many generated ones.
    """

    architecture: dict
    judge: str
    steps: int
    critic_width: int = 64
    rate: float = 3e-4
    batch_size: int = 64
    penalty: float = 0.01
    entropy: float = 0.1
    average: float = 0.9995
    checkpoint_every: int = 100
    images: int | None = None
    judged: int = 10_000


@dataclass(frozen=True)
class Race:
    """Recipe of the networks of the arms race: AdamW and a cosine schedule, as `companion.defences` trains.

    Attributes:
        architecture: as `companion.models` builds it; defended networks, surrogate and substitutes are alike.
        steps: steps of a training; distillation has two.
        substitute_steps: steps of each round in which a substitute is trained.
        seeds: generated images with which the attacker begins who trains a substitute.
        eps: size of the perturbations that networks are trained on, in L∞.
        batch_size: images a step.
        checkpoint_every: steps between checkpoints, and between lines of the log.
        images: train on the first so many images only, or None.
        judged: test images that are looked at in the end.
    """

    architecture: dict
    steps: int
    substitute_steps: int
    seeds: int = 500
    eps: float = 8 / 255
    batch_size: int = 128
    checkpoint_every: int = 100
    images: int | None = None
    judged: int = 10_000


def _wide_resnets(depth: int, width: int, plain: dict, adversarial: dict) -> dict:
    architecture = {"builder": "wide_resnet", "depth": depth, "width": width}
    return {
        "wide-resnet": Classifier(architecture, **plain),
        "wide-resnet-adversarial": Classifier(architecture, **adversarial),
    }


def _resnet(depth: int, width: int, **options) -> Classifier:
    return Classifier({"builder": "resnet", "depth": depth, "width": width}, **options)


def _gan(width: int, **options) -> Gan:
    return Gan({"builder": "dcgan_generator", "latent_dim": 100, "width": width}, **options)


_FEW = dict(images=512, judged=64, checkpoint_every=4)
_TINY = dict(epochs=1, **_FEW)
_LARGE = dict(batch_size=256, average=0.996)
PRESETS: dict[str, dict[str, dict[str, Classifier | Gan]]] = {
    "cifar10": {
        "smoke": {
            "vgg": Classifier({"builder": "vgg", "depth": 11, "width": 4}, **_TINY),
            **_wide_resnets(10, 1, _TINY, _TINY | dict(attack_steps=1, start="wide-resnet")),
            "generator": _gan(4, critic_width=4, judge="vgg", steps=12, **_FEW),
        },
        "cpu": {
            "vgg": Classifier({"builder": "vgg", "depth": 11, "width": 32}, epochs=20, rate=0.1),
            **_wide_resnets(16, 2, dict(epochs=24), dict(epochs=4, rate=0.1, attack_steps=2, start="wide-resnet")),
            "generator": _gan(48, judge="vgg", steps=18_000),
        },
        "gpu": {
            "vgg": Classifier({"builder": "vgg", "depth": 16, "width": 32}, epochs=45, rate=0.15, **_LARGE),
            **_wide_resnets(
                16,
                4,
                dict(epochs=45, rate=0.3, **_LARGE),
                dict(epochs=25, rate=0.15, attack_steps=3, start="wide-resnet", **_LARGE),
            ),
            "generator": _gan(96, critic_width=96, judge="vgg", steps=12_000, batch_size=128),
        },
        "full": {
            "vgg": Classifier({"builder": "vgg", "depth": 16, "width": 64}, epochs=60, rate=0.1),
            **_wide_resnets(28, 10, dict(epochs=60), dict(epochs=40, attack_steps=7)),
            "generator": _gan(128, critic_width=128, judge="vgg", steps=150_000, rate=2e-4, average=0.9999),
        },
    },
    "svhn": {
        "smoke": {
            "lenet": Classifier({"builder": "lenet", "width": 1}, **_TINY),
            "resnet-18": _resnet(18, 2, **_TINY),
            "resnet-101": _resnet(101, 1, **_TINY),
            "generator": _gan(4, critic_width=4, judge="resnet-18", steps=12, **_FEW),
        },
        "cpu": {
            "lenet": Classifier({"builder": "lenet", "width": 4}, epochs=20, rate=0.05),
            "resnet-18": _resnet(18, 16, epochs=10),
            "resnet-101": _resnet(101, 8, epochs=8),
            "generator": _gan(64, judge="resnet-18", steps=25_000),
        },
        "full": {
            "lenet": Classifier({"builder": "lenet", "width": 4}, epochs=40, rate=0.05),
            "resnet-18": _resnet(18, 64, epochs=40),
            "resnet-101": _resnet(101, 64, epochs=40),
            "generator": _gan(128, critic_width=128, judge="resnet-18", steps=150_000, rate=2e-4, average=0.9999),
        },
    },
}
# The networks of the arms race, `companion.training.race.NETWORKS`, by data set and preset.
RACES: dict[str, dict[str, Race]] = {
    "cifar10": {
        "smoke": Race({"builder": "vgg", "depth": 11, "width": 2}, steps=4, substitute_steps=2, seeds=8, **_FEW),
        "cpu": Race({"builder": "vgg", "depth": 11, "width": 16}, steps=3_000, substitute_steps=300),
        "gpu": Race({"builder": "vgg", "depth": 16, "width": 32}, steps=10_000, substitute_steps=1_000),
    },
}
