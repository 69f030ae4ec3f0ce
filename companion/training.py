"""The recipe behind the shipped digits networks: `python -m companion train digits --out DIR`.

Everything is seeded. A run that was killed goes on from its last checkpoint when the same command is given again,
and ends with the same weights as an unbroken one. In DIR it leaves the weights, `registry.json`, one log per
network (JSON lines) and the checkpoints, which may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as dump_weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from tqdm.auto import tqdm

from companion import models
from companion.data import Digits, digits
from companion.models import quality

CLASSIFIERS = {
    "linear": {"builder": "digits_linear"},
    "mlp": {"builder": "digits_mlp", "width": 128},
    "cnn": {"builder": "digits_cnn", "width": 32},
}
GENERATOR = {"builder": "digits_generator", "latent_dim": 16, "width": 256}
DATA = "1,347 of the 1,797 handwritten digits bundled with scikit-learn (UCI Optical Recognition, test part)"


@dataclass(frozen=True)
class Recipe:
    """Numbers of the digits recipe; the tests use a tiny one."""

    classifier_steps: int = 2_000
    generator_steps: int = 8_000
    checkpoint_every: int = 500
    batch_size: int = 64


def train_digits(
    out: Path | str,
    *,
    seed: int = 0,
    only: str | None = None,
    recipe: Recipe | None = None,
    progress: bool = False,
) -> dict:
    """Train, measure and write the digits networks.

    Args:
        out: folder to write into; made if missing. Nothing is written anywhere else.
        seed: seeds the weights and the order of everything.
        only: "linear", "mlp", "cnn" or "generator" to make that one alone (other registry entries stay as they are).
        recipe: how long to train; default `Recipe()`.
        progress: show a bar with the current losses.
    Returns:
        The registry: name -> entry, as `companion.models.card` reads it.
    Raises:
        ValueError: `only` is not one of the four, or `out` holds a checkpoint of another seed or recipe.
    """
    networks = [*CLASSIFIERS, "generator"]
    if only is not None and only not in networks:
        raise ValueError(f"only must be one of {', '.join(networks)}, got {only!r}")
    out, recipe, data = Path(out), recipe or Recipe(), digits()
    out.mkdir(parents=True, exist_ok=True)
    for kind in networks if only is None else [only]:
        run = Run(out, f"digits-{kind}", seed, recipe, progress)
        if kind == "generator":
            network, architecture = train_generator(run, data), GENERATOR
            judge = models.load(
                "digits/cnn", folder=out if (out / "digits-cnn.safetensors").exists() else models.WEIGHTS
            )
        else:
            network, architecture = train_classifier(run, data, kind), CLASSIFIERS[kind]
        _round_to_half(network)
        if kind == "generator":
            results = quality.generator_report(network, judge, data)
        else:
            results = quality.classifier_report(network, data)
        registry = _publish(run, f"digits/{kind}", network, architecture, results)
    return registry


def train_classifier(run: Run, data: Digits, kind: str) -> nn.Sequential:
    """Cross-entropy with AdamW and a cosine schedule; all but the linear one see randomly distorted scans."""
    with run.seeded():
        network = models.build(CLASSIFIERS[kind])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2 if kind == "linear" else 2e-3, weight_decay=1e-2)
    base, steps = optimizer.defaults["lr"], run.recipe.classifier_steps

    def step(index: int) -> dict:
        _set_rate(optimizer, base * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * index / steps)).item()))
        chosen = torch.randint(len(data.train_images), (run.recipe.batch_size,), generator=run.random)
        images = data.train_images[chosen]
        if kind != "linear":
            images = distort(images, run.random)
        loss = F.cross_entropy(network(images), data.train_labels[chosen])
        _descend(optimizer, loss)
        return {"loss": loss.item()}

    run.loop(step, steps, {"network": network}, {"optimizer": optimizer})
    return network


def train_generator(run: Run, data: Digits) -> nn.Sequential:
    """Non-saturating GAN with an R1 penalty, both sides distorted alike, averaged weights.

    Source:
        I. Goodfellow et al., Generative adversarial nets, 2014; L. Mescheder et al., Which training methods for GANs
        do actually converge?, 2018 (R1); S. Zhao et al., Differentiable augmentation, 2020.
    """
    with run.seeded():
        generator, critic = models.build(GENERATOR), models.build({"builder": "digits_critic", "width": 256})
        average = models.build(GENERATOR)
    average.load_state_dict(generator.state_dict())
    g_optimizer = torch.optim.Adam(generator.parameters(), betas=(0.0, 0.99))
    c_optimizer = torch.optim.Adam(critic.parameters(), betas=(0.0, 0.99))
    steps, n = run.recipe.generator_steps, run.recipe.batch_size

    def step(index: int) -> dict:
        for optimizer in (g_optimizer, c_optimizer):
            _set_rate(optimizer, 1e-3 * min(1.0, 2 * (1 - index / steps)) + 1e-5)
        chosen = torch.randint(len(data.train_images), (n,), generator=run.random)
        real = distort(data.train_images[chosen], run.random).requires_grad_(index % 4 == 0)
        with torch.no_grad():
            fake = distort(generator(torch.randn(n, generator.latent_dim, generator=run.random)), run.random)
        real_score, fake_score = critic(torch.cat([real, fake])).chunk(2)
        c_loss = F.softplus(-real_score).mean() + F.softplus(fake_score).mean()
        if real.requires_grad:  # every fourth step, four times as strong
            (slope,) = torch.autograd.grad(real_score.sum(), real, create_graph=True)
            c_loss = c_loss + 4 * R1 / 2 * slope.square().sum((1, 2, 3)).mean()
        _descend(c_optimizer, c_loss)
        images = generator(torch.randn(n, generator.latent_dim, generator=run.random))
        g_loss = F.softplus(-critic(distort(images, run.random))).mean()
        _descend(g_optimizer, g_loss)
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), generator.parameters(), strict=True):
                slow.lerp_(fast, 0.005 if index < steps // 2 else 0.002)
        return {"critic_loss": c_loss.item(), "generator_loss": g_loss.item()}

    parts = {"generator": generator, "critic": critic, "average": average}
    run.loop(step, steps, parts, {"generator_optimizer": g_optimizer, "critic_optimizer": c_optimizer})
    return average


R1 = 0.003


def distort(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image (n, 1, 8, 8) turned by up to 8°, scaled by up to 6 %, sheared and moved by up to half a pixel."""

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=random) - 1) * limit

    angle, scale, half_pixel = uniform(0.14), 1 + uniform(0.06), 0.5 * 2 / images.shape[-1]
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [
        torch.stack([cos, uniform(0.15) - sin, uniform(half_pixel)], 1),
        torch.stack([sin, cos, uniform(half_pixel)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


class Run:
    """One network's training run: its random numbers, its log and its checkpoint."""

    def __init__(self, out: Path, name: str, seed: int, recipe: Recipe, progress: bool) -> None:
        self.out, self.name, self.seed, self.recipe, self.progress = out, name, seed, recipe, progress
        self.random = torch.Generator().manual_seed(seed)
        self.log = out / f"{name}.jsonl"
        self.checkpoint = out / "checkpoints" / f"{name}.safetensors"

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Layers are initialised from the run's seed inside; the global random state is as before after it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield

    def loop(
        self,
        step: Callable[[int], dict],
        steps: int,
        parts: dict[str, nn.Module],
        optimizers: dict[str, Optimizer],
    ) -> None:
        """Call `step(index)` for every index not done yet, with a checkpoint every so often and at the end."""
        done = self._restore(parts, optimizers)
        kept = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.write_text("".join(line + "\n" for line in kept if json.loads(line)["step"] <= done))
        with tqdm(total=steps, initial=done, desc=self.name, disable=not self.progress) as bar:
            for index in range(done, steps):
                row = step(index)
                bar.update()
                if (index + 1) % self.recipe.checkpoint_every == 0 or index + 1 == steps:
                    bar.set_postfix(row)
                    with self.log.open("a") as log:
                        log.write(json.dumps({"step": index + 1} | row) + "\n")
                    self._save(index + 1, parts, optimizers)

    def _settings(self) -> dict[str, str]:
        return {"seed": str(self.seed), "recipe": json.dumps(asdict(self.recipe))}

    def _save(self, done: int, parts: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> None:
        tensors = {"done": torch.tensor(done), "random": self.random.get_state()}
        for name, part in parts.items():
            tensors |= {f"{name}/{key}": value for key, value in part.state_dict().items()}
        for name, optimizer in optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"{name}/{index}/{key}": value for key, value in moments.items()}
        _write(self.checkpoint, dump_weights(tensors, self._settings()))

    def _restore(self, parts: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> int:
        if not self.checkpoint.exists():
            return 0
        with safe_open(self.checkpoint, "pt") as file:
            if file.metadata() != self._settings():
                raise ValueError(
                    f"out must not hold a run of another seed or recipe: {self.checkpoint} is of {file.metadata()}, "
                    f"asked for {self._settings()}; delete it or choose another folder"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        for name, part in parts.items():
            part.load_state_dict({key: tensors[f"{name}/{key}"] for key in part.state_dict()})
        for name, optimizer in optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"{name}/"):
                    _, index, moment = key.split("/")
                    state.setdefault(int(index), {})[moment] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
        self.random.set_state(tensors["random"])
        return int(tensors["done"])


def _publish(run: Run, name: str, network: nn.Module, architecture: dict, results: dict) -> dict:
    """Write the weights in half precision and the registry entry; return the whole registry."""
    content = dump_weights({key: value.half() for key, value in network.state_dict().items()})
    file = f"{run.name}.safetensors"
    _write(run.out / file, content)
    path = run.out / "registry.json"
    registry = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    registry[name] = {
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest(),
        "architecture": architecture,
        "recipe": f"python -m companion train digits --seed {run.seed} --only {name.split('/')[1]} --out DIR",
        "settings": asdict(run.recipe),
        "seed": run.seed,
        "torch": torch.__version__,
        "data": DATA,
        "results": results,
    }
    _write(path, (json.dumps(dict(sorted(registry.items())), indent=2) + "\n").encode())
    return registry


def _write(path: Path, content: bytes) -> None:
    """Write all of it or nothing: a killed run leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _round_to_half(network: nn.Module) -> None:
    """Round the weights to fp16 values, as they are shipped, and freeze: what is measured is what is loaded."""
    network.load_state_dict({key: value.half().float() for key, value in network.state_dict().items()})
    network.eval().requires_grad_(False)


def _descend(optimizer: Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _set_rate(optimizer: Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
