"""The recipes for CIFAR-10 and SVHN: `python -m companion train cifar10 --preset cpu --root DATA --out DIR`.

One command trains the classifiers of the paper's table, a DCGAN and, for CIFAR-10, the networks of the arms race, in
order, and writes what `train digits` writes.
Given again it goes on where it was killed, in the middle of an epoch too, and ends with the same weights: to the bit on
a CPU, given the same torch, processor and number of threads; on a GPU sums may round in another order.

Presets: `smoke` only shows that everything runs (its networks are worth nothing), `cpu` is for two cores and a few
hours with narrow networks, `gpu` (CIFAR-10 only) for one GPU and some ten minutes with wider ones, `full` for one large
GPU with the networks of the literature.

Images are laid out channels-last, which is faster on processors as well as on GPUs. Convolutions run in bfloat16 where
the processor multiplies it natively; weights, optimizers and losses are float32.
"""

from __future__ import annotations

import copy
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from companion import _files, _registry, arms_race, models
from companion import data as sets
from companion._fit import descend, set_rate
from companion.models import quality
from companion.smoothness import lipschitz_at
from companion.training import race
from companion.training.presets import PRESETS, RACES, Gan, Race
from companion.training.run import Run, as_shipped, publish

RADIUS = 8 / 255


def train_images(
    data: str,
    out: Path | str,
    *,
    preset: str = "cpu",
    root: Path | str | None = None,
    device: str | None = None,
    seed: int = 0,
    only: str | None = None,
    progress: bool = False,
) -> dict:
    """Train, measure and write the networks of one table, and of the arms race on the same photographs.

    What is finished already is left as it is.

    Args:
        data: "cifar10" or "svhn".
        out: folder to write into; made if missing. Nothing is written anywhere else, a downloaded data set aside.
        preset: "smoke", "cpu", "gpu" (CIFAR-10 only) or "full".
        root: folder with the data, see `companion.data`; by default it is downloaded.
        device: where to train, e.g. "cuda"; by default a GPU if there is one.
        seed: seeds the weights and the order of everything.
        only: one network's name, to make that alone.
        progress: show bars with the current losses.
    Returns:
        The registry: name -> entry, as `companion.models.card` reads it.
    Raises:
        ValueError: unknown `data`, `preset` or `only`; a network that another one needs has not been trained;
            or `out` holds a checkpoint of another seed, recipe, precision or copy of the data. Missing or damaged data
            are reported as by `companion.data`.
    """
    recipes = dict(_one_of("preset", preset, _one_of("data", data, PRESETS)))
    if preset in RACES.get(data, {}):
        recipes |= dict.fromkeys(race.NETWORKS, RACES[data][preset])
    if only is not None:
        recipes = {only: _one_of("only", only, recipes)}
    out = Path(out)
    _files.ready(out, "checkpoints")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    images = getattr(sets, data)(root=root, progress=progress)
    bfloat16 = _multiplies_bfloat16(place)
    names = [f"{data}/{kind}" for kind in recipes]
    for name, (kind, recipe) in zip(names, recipes.items(), strict=True):
        # A substitute is the attacker's own, and trained as anyone would.
        halved = bfloat16 and not kind.startswith("substitute")
        settings = {"data": json.dumps(images.copy), "precision": "bfloat16" if halved else "float32"}
        run = Run(out, f"{data}-{kind}", seed, recipe, progress, **settings)
        if _finished(run, name):
            continue
        session = Session(run, recipe, images, place, halved, flip=data == "cifar10")
        if isinstance(recipe, Gan):
            judge = _trained(f"{data}/{recipe.judge}", out).to(place)
            network = as_shipped(train_dcgan(session))
            results = generator_report(session, network, judge)
        elif isinstance(recipe, Race):
            network, extra = train_racer(session, data, kind)
            network = as_shipped(network)
            results = classifier_report(session, network) | extra
        else:
            start = recipe.start and _trained(f"{data}/{recipe.start}", out)
            network = as_shipped(train_classifier(session, start))
            results = classifier_report(session, network)
        if run.seconds:  # a substitute's training is not timed
            results |= {"training_seconds": run.seconds}
        results |= {"device": _device_name(place), "precision": settings["precision"]}
        command = f"python -m companion train {data} --preset {preset} --seed {seed} --only {kind} --out DIR"
        publish(run, name, network, recipe.architecture, results, command=command, data=images.copy)
    return {name: models.card(name, folder=out) for name in names}


class Session:
    """One run's data and device: batches, latents and the precision of convolutions."""

    def __init__(self, run: Run, recipe, images: sets.Images, device: torch.device, bfloat16: bool, flip: bool) -> None:
        self.run, self.recipe, self.device, self.bfloat16, self.flip = run, recipe, device, bfloat16, flip
        self.train_images = images.train_images[: recipe.images].to(device)
        self.train_labels = images.train_labels[: recipe.images].to(device)
        self.test_images = images.test_images[: recipe.judged].to(device)
        self.test_labels = images.test_labels[: recipe.judged].to(device)
        self.batches = len(self.train_images) // recipe.batch_size
        self._epoch, self._order = -1, torch.empty(0)

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the session's device, channels last."""
        return network.to(self.device, memory_format=torch.channels_last)

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """The distorted images (n, 3, 32, 32) in [0, 1] and labels (n,) of one step; every epoch has its own order."""
        epoch, place = divmod(index, self.batches)
        if epoch != self._epoch:
            draws = torch.Generator().manual_seed((self.run.seed << 20) + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.train_images), generator=draws).to(self.device)
        size = self.recipe.batch_size
        chosen = self._order[place * size : (place + 1) * size]
        return self.distort(self.train_images[chosen]) / 255, self.train_labels[chosen]

    def distort(self, images: Tensor, random: torch.Generator | None = None) -> Tensor:
        """The images moved by up to four pixels, mirrored at their borders, and half of them flipped."""
        moved = shift(images, random or self.run.random, flip=self.flip)
        return moved.contiguous(memory_format=torch.channels_last)

    def latents(self, n: int, dim: int) -> Tensor:
        """Latents (n, dim) from the run's random numbers, the same on every device."""
        return _send(torch.randn(n, dim, generator=self.run.random), self.device)

    def precision(self) -> AbstractContextManager:
        """Convolutions in bfloat16 inside, where that pays."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


def train_classifier(session: Session, start: nn.Module | None = None) -> nn.Module:
    """Train by the session's `Classifier` recipe; returns the running average of the weights.

    Source:
        L. N. Smith and N. Topin, Super-convergence, 2018 (schedule); A. Madry et al., Towards deep learning models
        resistant to adversarial attacks, 2018 (adversarial training); A. Jeddi et al., A simple fine-tuning is all
        you need, 2020 (beginning with a trained classifier).
    """
    run, recipe = session.run, session.recipe
    with run.seeded():
        network = models.build(recipe.architecture)
    if start is not None:
        network.load_state_dict(start.state_dict())
    network = session.place(network)
    average = Average(network, recipe.average)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=recipe.rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * session.batches

    def step(index: int) -> dict:
        _triangle(optimizer, recipe.rate, index / steps)
        images, labels = session.batch(index)
        if recipe.attack_steps:
            options = dict(steps=recipe.attack_steps, random=run.random, precision=session.precision())
            images = worst_case(network, images, labels, **options)
        with session.precision():
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.smoothing)
        descend(optimizer, loss)
        average.follow(index)
        return {"loss": loss.detach(), "accuracy": (logits.argmax(1) == labels).float().mean()}

    run.loop(step, steps, {"network": network, "average": average.network}, {"optimizer": optimizer})
    return average.network


def train_racer(session: Session, data: str, kind: str) -> tuple[nn.Module, dict]:
    """One of `race.NETWORKS` by the session's `Race` recipe, and what its card says of it."""
    run, recipe = session.run, session.recipe

    def made(kind: str) -> nn.Sequential:
        return race.made(f"{data}/{kind}", run.out).to(session.device)

    # The surrogate is another network than its victims, so it begins elsewhere.
    with run.seeded(run.seed + (kind == "surrogate")):
        network = session.place(models.build(recipe.architecture))
    options = dict(batch_size=recipe.batch_size)
    if kind in race.DEFENDED:
        options |= dict(steps=recipe.steps, eps=recipe.eps, augment=lambda x, random: session.distort(x, random) / 255)
        static = [made(other) for other in ("vgg", "wide-resnet")] if kind == "ensemble-trained" else []
        images, labels = session.train_images, session.train_labels
        options |= dict(static=static, precision=session.precision)
        return race.train_defended(run, kind, network, images, labels, **options)
    victim, generator = kind.removeprefix("substitute-"), made("generator")
    seeds = generator(session.latents(recipe.seeds, generator.latent_dim))
    behind = made(victim if victim in race.DEFENDED else arms_race.SETTINGS[data].plain)
    options |= dict(steps=recipe.substitute_steps)
    return race.train_substitute(run, data, victim, network, behind, seeds, session.test_images / 255, **options)


def worst_case(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    random: torch.Generator,
    precision: AbstractContextManager | None = None,
) -> Tensor:
    """Projected gradient ascent on the loss: images in [0, 1] within 8/255 of `images` in every pixel."""
    seed = int(torch.randint(2**31, (), generator=random))
    x = (images + RADIUS * (2 * uniform(images.shape, seed, images.device) - 1)).clamp(0, 1)
    for _ in range(steps):
        x.requires_grad_()
        with precision or nullcontext():
            logits = network(x)
        (slope,) = torch.autograd.grad(F.cross_entropy(logits.float(), labels, reduction="sum"), x)
        moved = x.detach() + 2.5 * RADIUS / steps * slope.sign()
        x = (images + (moved - images).clamp(-RADIUS, RADIUS)).clamp(0, 1)
    return x.detach()


def train_dcgan(session: Session) -> nn.Module:
    """Train by the session's `Gan` recipe; returns the generator's running average, its batch norm measured anew.

    As in the digits recipe the critic also learns the labels of real images; the generator makes images whose label
    the critic is sure of, and all labels equally often. Real and generated images are distorted alike, and an R1
    penalty on every sixteenth step keeps the critic's slope small. The generator itself knows no labels.

    Source:
        A. Radford et al., Unsupervised representation learning with deep convolutional GANs, 2016; T. Salimans et
        al., Improved techniques for training GANs, 2016 (labels); J. T. Springenberg, Unsupervised and
        semi-supervised learning with categorical GANs, 2016 (sure and balanced); L. Mescheder et al., Which training
        methods for GANs do actually converge?, 2018; S. Zhao et al., Differentiable augmentation, 2020.
    """
    run, recipe = session.run, session.recipe
    with run.seeded():
        generator = models.build(recipe.architecture)
        critic = models.build({"builder": "dcgan_critic", "width": recipe.critic_width, "outputs": 11})
    generator, critic = session.place(generator), session.place(critic)
    average = Average(generator, recipe.average)
    g_optimizer, c_optimizer = (
        torch.optim.Adam(part.parameters(), lr=recipe.rate, betas=(0.5, 0.99)) for part in (generator, critic)
    )

    def generate() -> Tensor:
        with session.precision():
            images = generator(session.latents(recipe.batch_size, generator.latent_dim))
        return session.distort(images.float())

    def judge(images: Tensor) -> tuple[Tensor, Tensor]:
        with session.precision():
            seen = critic(images).float()
        return seen[:, 0], seen[:, 1:]

    def step(index: int) -> dict:
        for optimizer in (g_optimizer, c_optimizer):
            set_rate(optimizer, recipe.rate * min(1.0, 2 * (1 - index / recipe.steps)))
        real, labels = session.batch(index)
        with torch.no_grad():
            fake = generate()
        score, logits = judge(torch.cat([real, fake]))
        real_score, fake_score = score.chunk(2)
        c_loss = F.softplus(-real_score).mean() + F.softplus(fake_score).mean()
        c_loss = c_loss + F.cross_entropy(logits[: len(labels)], labels)
        if index % 16 == 0:  # in float32, and sixteen times as strong
            real.requires_grad_()
            (slope,) = torch.autograd.grad(critic(real)[:, 0].sum(), real, create_graph=True)
            c_loss = c_loss + 16 * recipe.penalty / 2 * slope.square().sum((1, 2, 3)).mean()
        descend(c_optimizer, c_loss)
        critic.requires_grad_(False)
        score, logits = judge(generate())
        critic.requires_grad_(True)
        each = torch.distributions.Categorical(logits=logits).entropy().mean()
        all_together = torch.distributions.Categorical(probs=logits.softmax(1).mean(0)).entropy()
        g_loss = F.softplus(-score).mean() + recipe.entropy * (each - all_together)
        descend(g_optimizer, g_loss)
        average.follow(index)
        return {"critic_loss": c_loss.detach(), "generator_loss": g_loss.detach(), "entropy": each.detach()}

    parts = {"generator": generator, "critic": critic, "average": average.network}
    run.loop(step, recipe.steps, parts, {"generator_optimizer": g_optimizer, "critic_optimizer": c_optimizer})
    return measure_statistics(average.network, run.seed)


@torch.no_grad()
def measure_statistics(generator: nn.Module, seed: int, *, batches: int = 50) -> nn.Module:
    """The generator with batch-norm statistics of its own weights: means over `batches` of 200 latents."""
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean of all batches
    draws, device = torch.Generator().manual_seed(seed), next(generator.parameters()).device
    generator.train()
    for _ in range(batches):
        generator(torch.randn(200, generator.latent_dim, generator=draws).to(device))
    return generator.eval()


def classifier_report(session: Session, network: nn.Module) -> dict:
    """Accuracy on the test images, and under a 20-step attack of the training's kind on the first 1,000 of them."""
    images, labels = session.test_images / 255, session.test_labels
    attacked = [
        worst_case(network, part, own, steps=20, random=session.run.random)
        for part, own in zip(images[:1000].split(250), labels[:1000].split(250), strict=True)
    ]
    return {
        "test_accuracy": quality.accuracy(network, images, labels),
        "test_images": len(images),
        "attacked_accuracy": quality.accuracy(network, torch.cat(attacked), labels[:1000]),
        "attack": "L-infinity 8/255, 20 steps of projected gradient ascent, one random start",
        "attacked_images": min(1000, len(images)),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


@torch.no_grad()
def generator_report(session: Session, generator: nn.Module, judge: nn.Sequential) -> dict:
    """Generated images beside real ones, as the judge's logits and the features below its last layer see them."""
    n = len(session.test_images)
    latents = torch.randn(n, generator.latent_dim, generator=torch.Generator().manual_seed(session.run.seed))
    latents = latents.to(session.device)
    sides = {
        "generated": torch.cat([generator(part) for part in latents.split(500)]),
        "train": session.train_images[:n] / 255,
        "test": session.test_images / 255,
    }
    features = {side: torch.cat([judge[:-1](part) for part in x.split(500)]).cpu() for side, x in sides.items()}
    logits = {side: judge[-1](x.to(session.device)).softmax(1).cpu() for side, x in features.items()}
    few = min(1000, n)
    labels = logits["generated"].argmax(1)
    slopes = lipschitz_at(generator, latents[: min(200, n)]).cpu()
    levels = [0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
    return {
        "judge": session.recipe.judge,
        "images": n,
        "class_probabilities": (torch.bincount(labels, minlength=10).double() / n).tolist(),
        "top_probability": {side: logits[side].amax(1).mean().item() for side in ("generated", "test")},
        "frechet": {
            side: quality.frechet_distance(features[side], features["test"]) for side in ("generated", "train")
        },
        "two_sample_on_features": {
            side: quality.two_sample_accuracy(features[side][:few], features["test"][:few])
            for side in ("generated", "train")
        },
        "jacobian_norm": {
            "quantiles": levels,
            "values": torch.quantile(slopes.double(), torch.tensor(levels, dtype=torch.float64)).tolist(),
        },
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
    }


def shift(images: Tensor, random: torch.Generator, *, flip: bool, pixels: int = 4) -> Tensor:
    """Images (n, c, h, w), each moved by up to `pixels` along both axes, mirrored at its borders; maybe flipped."""
    n, _, height, width = images.shape

    def places(size: int) -> Tensor:
        offset = torch.randint(-pixels, pixels + 1, (n, 1), generator=random)
        place = (torch.arange(size) + offset).abs()
        return size - 1 - (size - 1 - place).abs()

    rows, columns = places(height), places(width)
    if flip:
        columns = torch.where(torch.rand(n, 1, generator=random) < 0.5, columns, columns.flip(1))
    rows, columns = _send(rows, images.device), _send(columns, images.device)
    every = torch.arange(n, device=images.device)[:, None, None]
    return images[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


class Average:
    """A network whose weights and statistics follow those of another: slower and slower, up to `decay`."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network).requires_grad_(False), decay
        # The tensors stay the same ones, when a checkpoint is read too: they are looked up once, not at every step.
        self._slow, self._fast = (
            [value for value in part.state_dict().values() if value.is_floating_point()]
            for part in (self.network, network)
        )

    @torch.no_grad()
    def follow(self, index: int) -> None:
        """Move towards the other network's weights of step `index`."""
        torch._foreach_lerp_(self._slow, self._fast, 1 - min(self.decay, (1 + index) / (10 + index)))


def uniform(shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """Numbers uniform on [0, 1), the same on every device and made there: a GPU does not wait for the processor.

    Args:
        shape: as of a tensor, fewer than 2³¹ numbers.
        seed: from 0 to 2³¹ - 1.
        device: where they are made.
    Source: C. Wellons, Prospecting for hash functions, 2018: its 32-bit mixer, of a counter and a seed.
    """
    mixed = torch.arange(shape.numel(), device=device) + _mixed(seed)
    return (_mixed(mixed & _BITS) >> 8).float().mul_(2.0**-24).reshape(shape)


_BITS = 2**32 - 1


def _mixed(number):
    """The mixer, of a whole number or of each in a tensor."""
    for shift_by, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        # In 64 bits the product runs over, which keeps its lower 32 bits right.
        number = ((number ^ (number >> shift_by)) * factor) & _BITS
    return number ^ (number >> 16)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device, which a GPU fetches when it comes to it, without making the processor wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor itself multiplies bfloat16, so that it is faster than float32 there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _one_of(name: str, value, known: dict):
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return known[value]


def _finished(run: Run, name: str) -> bool:
    """Whether `out` has this network already, whole, and trained by the same recipe from the same data."""
    card = _registry.trained(run.out).get(name)
    if card is None:
        return False
    same = {"seed": card["seed"], "recipe": card["settings"], "data": card["data"]}
    wanted = {"seed": run.seed, "recipe": asdict(run.recipe), "data": json.loads(run.settings["data"])}
    if same != wanted:
        return False
    try:
        models.load(name, folder=run.out)
    except (FileNotFoundError, _files.Damaged):
        return False  # it is made again: the message about it names this very command
    return True


def _trained(name: str, out: Path) -> nn.Sequential:
    """A network that was trained into `out` before."""
    if name in _registry.trained(out):
        return models.load(name, folder=out)
    data, kind = name.split("/")
    raise ValueError(f"out must hold {name} first, got {str(out)!r}; run: train {data} --only {kind}")


def _triangle(optimizer: Optimizer, rate: float, done: float) -> None:
    """The rate rises over the first fifth of the run, then falls to zero."""
    set_rate(optimizer, rate * min(max(done, 0.02) / 0.2, (1 - done) / 0.8))
