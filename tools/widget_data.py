"""Make what six widgets show and do not calculate, from the shipped networks: python tools/widget_data.py

Writes `companion/widgets/NAME_data.json` for all of them, or for some: python tools/widget_data.py certificates. Each
file says in `made_of` which weights it was made of; where they change, a test asks for this command. The walks take
some minutes, the photographs and the matrix one, the others seconds. Afterwards execute the chapters that show them.
"""

import json
import sys
from base64 import b64encode
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion import _files, arms_race, models, robustness
from companion.attacks import fgsm
from companion.certificates import certified_lipschitz, load_multipliers
from companion.data import CIFAR10_CLASSES, held_out_digits
from companion.experiments import stored
from companion.experiments.report import COUNTED
from companion.smoothness import lipschitz_at, local_modulus
from companion.training import LIPSCHITZ
from companion.vulnerability import least_favourable

READERS = ("cnn", "linear", "mlp")
SHOWN = 12  # digits of each generator
WALKED = ("wide-resnet", "wide-resnet-adversarial")
WALKS, FAR, KEY, FINE = 4, 1.5, 0.25, 0.01  # images; how far each walk goes; steps between frames and between labels
STARTS = 8  # latents from which a reader may set out
GREYS = {"attack": 16, "matrix": 48}  # real scans have 16, and a multiple of that leaves them as they are
NETWORKS = {"vgg": "VGG", "wide-resnet": "Wide ResNet", "wide-resnet-adversarial": "trained on attacks"}
SHADES, SURE = 16, 0.6  # the largest change of a colour, of 255; how sure the networks are of a photograph at least


def packed(values: Tensor) -> str:
    """Base64 of half-precision floats, of booleans as bits, or of integers from -128 to 255, a byte each."""
    if values.dtype is torch.bool:
        values = torch.from_numpy(np.packbits(values.numpy()))
    elif values.dtype is not torch.half:
        values = (values.to(torch.int64) % 256).to(torch.uint8)
    return b64encode(values.numpy().tobytes()).decode()


def grey(images: Tensor, most: int = 255) -> Tensor:
    """Images in [0, 1] as levels from 0 to `most`."""
    return (most * images).round().clamp(0, most)


def first_of_each(allowed: Tensor, labels: Tensor, count: int) -> list[int]:
    """The first allowed row of each of `count` classes, in the order in which they come."""
    first: dict[int, int] = {}
    for k in allowed.nonzero()[:, 0].tolist():
        first.setdefault(int(labels[k]), k)
    if len(first) < count:
        raise SystemExit(f"there are pictures of {len(first)} classes only, and {count} are needed")
    return list(first.values())[:count]


def rounded(values: Tensor, digits: int) -> Any:
    """Nested lists of numbers with so many decimals."""
    return json.loads(json.dumps(values.tolist()), parse_float=lambda text: round(float(text), digits))


def made_of(*names: str) -> dict[str, str]:
    """The SHA-256 of each network's weights."""
    return {name: models.card(name)["sha256"] for name in names}


def gaussian(rows: int, dim: int, seed: int = 0) -> Tensor:
    """Latents (rows, dim)."""
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def certificates() -> dict[str, Any]:
    """The first digits of the six generators, and what was measured of each with each classifier."""
    kinds = (*LIPSCHITZ, "generator")
    generators = [models.load(f"digits/{kind}").double() for kind in kinds]
    proofs = [certified_lipschitz(generator, (16,)) for generator in generators[:-1]]
    proofs.append(certified_lipschitz(generators[-1], (16,), multipliers=load_multipliers("digits/generator")))
    # The latents whose radii are stored: the first of them are shown.
    images = [generator(gaussian(300, 16)[:SHOWN]) for generator in generators]
    kept = json.loads((files("companion") / "results" / "certificates-digits.json").read_text(encoding="utf-8"))
    share = 1 - 0.05 / (len(kinds) * len(READERS))  # all statements hold together with 95 %
    readers = {}
    for name in READERS:
        classifier, measured = models.load(f"digits/{name}").double(), [kept[f"{kind}/{name}"] for kind in kinds]
        readers[name] = {
            "labels": [classifier(part).argmax(1).tolist() for part in images],
            "safe": [least_favourable(one["counts"], confidence=share).tolist() for one in measured],
        } | {what: [one[what] for one in measured] for what in ("radii", "nearest")}
    return {
        "made_of": made_of(*(f"digits/{name}" for name in (*kinds, *READERS))),
        "names": [*(f"L = {constant:g}" for constant in LIPSCHITZ.values()), "free"],
        "constants": [float(proof.constant) for proof in proofs],
        "images": packed(grey(torch.stack(images))),
        "readers": readers,
    }


def walk() -> dict[str, Any]:
    """From the first photographs of the table to the nearest latent of another label, for two networks."""
    generator = models.load("cifar10/generator").double()
    z = torch.tensor(rounded(table_latents()[:WALKS], 9), dtype=torch.float64)
    places = torch.arange(round(FAR / FINE) + 1, dtype=torch.float64)[:, None] * FINE
    keys = slice(0, None, round(KEY / FINE))
    walks, error = {}, 0.0
    for kind in WALKED:
        classifier = models.load(f"cifar10/{kind}").double()
        found = robustness.radii(generator, classifier, z, steps=100, metric_steps=20)
        walks[kind] = []
        for start, end, *radii in zip(z, found.latent_witness, *found[:3], strict=True):
            end = torch.tensor(rounded(end, 9), dtype=torch.float64)
            images = generator(start + places * (end - start))
            chances = classifier(images).softmax(1)
            frames = grey(images[keys])
            error = max(error, float((255 * images - blend(frames, places.flatten() / KEY)).abs().max()))
            walks[kind].append(
                {
                    "end": end.tolist(),
                    "radii": rounded(torch.stack(radii), 6),
                    "frames": packed(frames[1:]),
                    "labels": "".join(str(label) for label in chances.argmax(1).tolist()),
                    "chances": (1e4 * chances).round().int().tolist(),
                    "moved": rounded((images - images[0]).flatten(1).norm(dim=1), 5),
                }
            )
    return {
        "made_of": made_of("cifar10/generator", *(f"cifar10/{kind}" for kind in WALKED)),
        "classes": ["plane", "car", *CIFAR10_CLASSES[2:]],
        "far": FAR,
        "key": KEY,
        "fine": FINE,
        "error": round(error, 2),
        "starts": z.tolist(),
        "first": packed(grey(generator(z))),
        "walks": walks,
    }


def table_latents() -> Tensor:
    """The latents with which the table of CIFAR-10 begins, as the chapter draws them."""
    count = (1 + COUNTED) * stored("cifar10").provenance["chunk"]
    return torch.randn(count, 100, generator=torch.Generator().manual_seed(0)).double()


def blend(frames: Tensor, places: Tensor) -> Tensor:
    """Frames (n, *image) at the whole numbers, between them the parabola through the three nearest: (m, *image)."""
    middle = places.round().clamp(1, len(frames) - 2).long()
    x = (places - middle).reshape(-1, *[1] * (frames.ndim - 1))
    before, here, after = frames[middle - 1], frames[middle], frames[middle + 1]
    return here + x * (after - before) / 2 + x**2 * (after - 2 * here + before) / 2


def latent() -> dict[str, Any]:
    """The digits generator with weights of 8 bits, latents to start from, and their local moduli."""
    network = models.load("digits/generator").double()
    z, layers = gaussian(1000, 16, seed=7), []
    images, slopes = network(z), lipschitz_at(network, z)
    for layer in network:
        if isinstance(layer, nn.Linear):
            scale = torch.tensor(rounded(layer.weight.abs().amax(1) / 127, 8), dtype=torch.float64)
            values = (layer.weight / scale[:, None]).round().clamp(-127, 127)
            bias = torch.tensor(rounded(layer.bias, 6), dtype=torch.float64)
            layer.weight.data, layer.bias.data = values * scale[:, None], bias
            layers.append({"values": packed(values), "scale": scale.tolist(), "bias": bias.tolist()})
    starts = torch.tensor(rounded(gaussian(STARTS, 16), 2), dtype=torch.float64)
    t = torch.cat([torch.arange(1, 11) * 0.1, torch.arange(5, 17) * 0.25]).double()
    return {
        "made_of": made_of("digits/generator"),
        "layers": layers,
        "moved_by_rounding": round(float((network(z) - images).flatten(1).norm(dim=1).max()), 3),
        "slopes_by_rounding": round(float((lipschitz_at(network, z) / slopes - 1).abs().max()), 3),
        "certified": float(certified_lipschitz(network, (16,)).constant),
        "starts": starts.tolist(),
        "t": rounded(t, 2),
        "moduli": rounded(local_modulus(network, starts, t, steps=60, restarts=16), 4),
    }


def attack() -> dict[str, Any]:
    """The shipped weights of `digits/mlp`, and of each label the first generated digit that three networks agree on."""
    generator, readers = models.load("digits/generator"), ("cnn", "mlp", "surrogate")
    images = grey(generator(torch.randn(1000, 16, generator=torch.Generator().manual_seed(1))), GREYS["attack"])
    votes = torch.stack([models.load(f"digits/{kind}")(images / GREYS["attack"]).argmax(1) for kind in readers])
    agreed = (votes == votes[0]).all(0)
    linear = [layer for layer in models.load("digits/mlp") if isinstance(layer, nn.Linear)]
    return {
        "made_of": made_of("digits/generator", *(f"digits/{kind}" for kind in readers)),
        "layers": [{"weight": packed(layer.weight.half()), "bias": packed(layer.bias.half())} for layer in linear],
        "greys": GREYS["attack"],
        "digits": [packed(images[agreed & (votes[0] == label)][0]) for label in range(10)],
    }


def matrix() -> dict[str, Any]:
    """The measured matrix; three scans that all victims read rightly, after each of its attacks, with the answers."""
    race, victims, surrogate = arms_race.load("digits"), *arms_race.shipped_victims("digits")
    kinds = ("cnn", "surrogate", "distilled", "fgsm-trained", "ensemble-trained")
    kinds += tuple(f"substitute-{name.lower()}" for name in victims)
    x, y = (part[:100] for part in held_out_digits())
    chosen = first_of_each(torch.stack([one.answer(x).argmax(1) == y for one in victims.values()]).all(0), y, 3)
    x, y = x[chosen], y[chosen]
    shape = len(x), *race.accuracy.shape
    images, answers = torch.zeros(*shape, *x.shape[1:]), torch.zeros(shape, dtype=torch.long)
    for a, one in enumerate(arms_race.all_attacks().values()):
        size = (arms_race.EPS,) if one.sized else ()
        for v, victim in enumerate(victims.values()):
            for t, source in enumerate((victim.naive, victim.adaptive, surrogate, victim.substitute)):
                images[:, v, t, a] = one.run(source, x, y, (0.0, 1.0), *size)
                answers[:, v, t, a] = victim.answer(images[:, v, t, a]).argmax(1)
    levels = grey(images, GREYS["matrix"])
    return {
        "made_of": made_of(*(f"digits/{kind}" for kind in kinds)),
        "victims": race.victims,
        "threats": race.threats,
        "attacks": race.attacks,
        "accuracy": race.accuracy.tolist(),
        "distance": [[[v if v < torch.inf else None for v in row] for row in part] for part in race.distance.tolist()],
        "labels": y.tolist(),
        "answers": answers.tolist(),
        "greys": GREYS["matrix"],
        "digits": [packed(image) for image in grey(x, GREYS["matrix"])],
        "attacked": [[[[packed(i) for i in row] for row in part] for part in victim] for victim in levels],
    }


def photograph() -> dict[str, Any]:
    """Six photographs, moved along signs, as three networks see them at every size.

    Of 600 generated ones, rounded to whole colours: the first of each class of which all three networks are SURE.
    """
    generator = models.load("cifar10/generator")
    # In double precision, in which the gradient of a network that is very sure does not vanish.
    networks = {name: models.load(f"cifar10/{name}").double() for name in NETWORKS}
    draws = torch.Generator().manual_seed(0)
    x = grey(generator(torch.randn(600, 100, generator=draws))).double()
    sure, votes = torch.stack([network(x / 255).softmax(1) for network in networks.values()]).max(2)
    chosen = first_of_each((votes == votes[0]).all(0) & (sure.amin(0) >= SURE), votes[0], 6)
    x, y = x[chosen], votes[0, chosen]
    rows: dict[str, Any] = {}
    coin = torch.rand(x.shape, generator=draws) < 0.5
    for name, network in networks.items():
        # One step of any size has the same signs. Where there is no gradient at all there is nothing to show.
        step = fgsm(network, x / 255, y, eps=1.0, keep_failed=True) - x / 255
        if (step == 0).any():
            raise SystemExit(f"{name}: a derivative is exactly 0; signs alone cannot say this")
        rows[name] = {"name": NETWORKS[name]}
        for kind, up in {"gradient": step > 0, "random": coin}.items():
            # In exact whole colours, so that the page shows what the network saw.
            moved = torch.stack([(x + k * torch.where(up, 1, -1)).clamp(0, 255) for k in range(SHADES + 1)], 1)
            shares = network(moved.flatten(0, 1) / 255).softmax(1).reshape(len(x), SHADES + 1, -1)
            top, label = shares.max(2)
            right = shares[torch.arange(len(x)), :, y]
            rows[name][kind] = {
                "signs": [packed(one) for one in up],
                "label": label.tolist(),
                "sure": rounded(top, 3),
                "right": rounded(right, 3),
            }
    return {
        "made_of": made_of("cifar10/generator", *(f"cifar10/{name}" for name in NETWORKS)),
        "classes": list(CIFAR10_CLASSES),
        "labels": y.tolist(),
        "photographs": [packed(image) for image in x],
        "networks": rows,
    }


MAKERS: dict[str, Callable[[], dict[str, Any]]] = {
    "attack": attack,
    "certificates": certificates,
    "latent": latent,
    "matrix": matrix,
    "photograph": photograph,
    "walk": walk,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or MAKERS:
        path = files("companion") / "widgets" / f"{name}_data.json"
        _files.write_json(path, MAKERS[name](), separators=(",", ":"))
        print(f"{name}: {len(path.read_bytes()):,} bytes", flush=True)
