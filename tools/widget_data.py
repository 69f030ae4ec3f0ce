"""Make what three widgets show and do not calculate, from the shipped networks: python tools/widget_data.py

Writes `companion/widgets/NAME_data.json` for all of them, or for some: python tools/widget_data.py certificates. Each
file says in `made_of` which weights it was made of; where they change, a test asks for this command. The walks take
some minutes, the others seconds.
"""

import json
import sys
from base64 import b64encode
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor, nn

from companion import _files, models, robustness
from companion.certificates import certified_lipschitz, load_multipliers
from companion.data import CIFAR10_CLASSES
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


def bytes_of(values: Tensor) -> str:
    """Base64 of integers from -128 to 255, a byte each."""
    return b64encode((values.to(torch.int64) % 256).to(torch.uint8).numpy().tobytes()).decode()


def grey(images: Tensor) -> Tensor:
    """Images in [0, 1] as levels from 0 to 255."""
    return (255 * images).round().clamp(0, 255)


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
        "images": bytes_of(grey(torch.stack(images))),
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
                    "frames": bytes_of(frames[1:]),
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
        "first": bytes_of(grey(generator(z))),
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
            layers.append({"values": bytes_of(values), "scale": scale.tolist(), "bias": bias.tolist()})
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


MAKERS: dict[str, Callable[[], dict[str, Any]]] = {"certificates": certificates, "walk": walk, "latent": latent}

if __name__ == "__main__":
    for name in sys.argv[1:] or MAKERS:
        path = files("companion") / "widgets" / f"{name}_data.json"
        _files.write_json(path, MAKERS[name](), separators=(",", ":"))
        print(f"{name}: {len(path.read_bytes()):,} bytes", flush=True)
