"""Every attack against every defence, under every threat model: one measured matrix.

A *threat model* says what the attacker knows. In a white box they have the victim and its gradient, as it comes
("naive") or as someone who understands the defence would take it ("adaptive"). In a black box they attack another
network and hope: one trained on the same data ("transfer"), or one trained on the victim's answers ("substitute").
"""

from __future__ import annotations

import functools
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from companion import _files, _jobs, models
from companion import _validation as check
from companion import data as sets
from companion._jobs import Job
from companion._store import Store
from companion.attacks import fgsm, jsma, lbfgs, mi_fgsm, minimal_l2
from companion.defences.masking import RandomActivations, bpda, eot, quantise

if TYPE_CHECKING:
    from distributed import Client

THREATS = ("white box, naive", "white box, adaptive", "transfer", "substitute")
VICTIMS = ("undefended", "distilled", "FGSM-trained", "ensemble-trained", "quantised", "random")


class Setting(NamedTuple):
    """How the race is run on the images of a data set.

    Attributes:
        plain: the undefended network, which is also behind the victims that only hide its gradient.
        eps: the L∞ size at which the accuracy under the sign attacks is taken.
        eps_l2: the L2 length within which the accuracy under every attack is taken.
        sizes: those at which the sign attacks look for the smallest perturbation.
        pixels: the share of pixels that JSMA may change.
        levels: those that the quantising defence rounds to.
        keep: the share of activations that the random defence keeps.
        draws: calls that the random defence averages.
    """

    plain: str
    eps: float
    eps_l2: float
    sizes: tuple[float, ...]
    pixels: float
    levels: int = 5
    keep: float = 0.3
    draws: int = 32


# Photographs need finer levels, and a VGG cannot lose most of its activations after every one of its layers.
SETTINGS = {
    "digits": Setting("cnn", 0.2, 1.0, (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0), 0.5),
    "cifar10": Setting("vgg", 8 / 255, 0.5, tuple(shades / 255 for shades in (1, 2, 4, 8, 16, 32)), 0.02, 8, 0.7, 8),
}
EPS, EPS_L2, SIZES = SETTINGS["digits"][1:4]
RESULTS = Path(__file__).parent / "results"


class Victim(NamedTuple):
    """A defended classifier, as it answers and as its attackers see it.

    Attributes:
        answer: what is deployed; it alone decides what is fooled.
        naive: what offers the gradient as it comes.
        adaptive: what a gradient is taken of by someone who understands the defence.
        substitute: a network trained on the answers, or None.
    """

    answer: Callable
    naive: Callable
    adaptive: Callable
    substitute: Callable | None = None


class Attack(NamedTuple):
    """An attack of the matrix.

    Attributes:
        run: (classifier, x, y, bounds) -> x_adv; if `sized`, (classifier, x, y, bounds, eps) -> x_adv.
        sized: whether it takes a size, or finds the size itself.
    """

    run: Callable
    sized: bool


class Outcomes(NamedTuple):
    """What happened to each of n images, before anything is counted.

    Attributes:
        right: (n, V) whether the victim classifies the image rightly without attack.
        kept: (n, V, T, A) whether it still does under an attack of size `eps`.
        nearest: (n, V, T, A) L2 length of the smallest perturbation that fools; `inf` where none did, NaN where nothing
            was measured.
    """

    right: Tensor
    kept: Tensor
    nearest: Tensor


class Matrix(NamedTuple):
    """What `matrix` measured, for V victims, T threat models and A attacks.

    Attributes:
        victims: the names along the first axis.
        threats: the names along the second.
        attacks: the names along the third.
        accuracy: (V, T, A) share of all images still classified rightly under attack; NaN where nothing was measured.
        accuracy_l2: (V, T, A) share of all images classified rightly for which the attack found no perturbation of at
            most the L2 length `eps_l2`; NaN where nothing was measured.
        distance: (V, T, A) median L2 length of the smallest perturbation found, over the images that are classified
            rightly to begin with; `inf` where fewer than half were fooled.
        clean: (V,) accuracies without attack.
        provenance: how this came about.
    """

    victims: tuple[str, ...]
    threats: tuple[str, ...]
    attacks: tuple[str, ...]
    accuracy: Tensor
    accuracy_l2: Tensor
    distance: Tensor
    clean: Tensor
    provenance: dict

    def at(self, victim: str, threat: str, attack: str) -> tuple[float, float]:
        """Accuracy and median distance of one entry."""
        place = self.victims.index(victim), self.threats.index(threat), self.attacks.index(attack)
        return self.accuracy[place].item(), self.distance[place].item()


def all_attacks(*, pixels: float = 0.5) -> dict[str, Attack]:
    """The attacks of the matrix: four published ones, two in two forms, and this book's minimal-norm attack.

    Args:
        pixels: the share of pixels that JSMA may change, in (0, 1].
    """

    def sign(attack, **options):
        def run(classifier, x, y, bounds, eps):
            return attack(classifier, x, y, eps=eps, bounds=bounds, keep_failed=True, **options)

        return Attack(run, sized=True)

    def few_pixels(classifier, x, y, bounds):
        return jsma(classifier, x, y, bounds=bounds, max_fraction=pixels)

    def few_pixels_by_probabilities(classifier, x, y, bounds):
        return few_pixels(lambda image: classifier(image).softmax(1), x, y, bounds)

    def smallest(attack, **options):
        return Attack(lambda classifier, x, y, bounds: attack(classifier, x, y, bounds=bounds, **options), sized=False)

    return {
        "L-BFGS": smallest(lbfgs, searches=8, steps=20),
        "FGSM": sign(fgsm),
        "iterated": sign(fgsm, steps=20),
        "MI-FGSM": sign(mi_fgsm, steps=20),
        "JSMA": Attack(few_pixels, sized=False),
        "JSMA, prob.": Attack(few_pixels_by_probabilities, sized=False),
        "minimal L2": smallest(minimal_l2),
    }


def shipped_victims(
    data: str = "digits", *, weights: Path | str = models.WEIGHTS, draws: int | None = None, seed: int = 0
) -> tuple[dict[str, Victim], Callable]:
    """The trained networks of a data set as victims, name -> `Victim`, and the surrogate trained on the same data.

    Args:
        data: "digits" or "cifar10".
        weights: folder with `registry.json` and the networks, as `train` leaves it (default: the shipped ones).
        draws: calls that the random defence averages (default: those of `SETTINGS`); its adaptive attacker averages a
            quarter of them.
        seed: seeds the random defence.

    Raises:
        ValueError: unknown `data`, or networks are missing; says which.
    """
    kinds = _networks(data)
    missing = [kind for kind in kinds if f"{data}/{kind}" not in models.names(folder=weights)]
    if missing:
        raise ValueError(
            f"weights must hold the networks of the race on {data}, got {str(weights)!r} without {', '.join(missing)}; "
            f"they are made by: python -m companion train {data} --out DIR"
        )
    network = {kind: models.load(f"{data}/{kind}", folder=weights) for kind in kinds}
    setting, distilled = SETTINGS[data], network["distilled"]
    plain, draws = network[setting.plain], setting.draws if draws is None else draws
    temperature = models.card(f"{data}/distilled", folder=weights)["results"]["temperature"]
    rounded = functools.partial(quantise, levels=setting.levels)
    random = RandomActivations(plain, keep=setting.keep, seed=seed)
    seen = {
        "undefended": (plain, plain, plain),
        "distilled": (distilled, distilled, lambda x: distilled(x) / temperature),
        "FGSM-trained": (network["fgsm-trained"],) * 3,
        "ensemble-trained": (network["ensemble-trained"],) * 3,
        "quantised": (*(lambda x: plain(rounded(x)),) * 2, lambda x: plain(bpda(rounded)(x))),
        "random": (eot(random, draws=draws), eot(random, draws=1), eot(random, draws=max(1, draws // 4))),
    }
    victims = {name: Victim(*ways, network[f"substitute-{name.lower()}"]) for name, ways in seen.items()}
    return victims, network["surrogate"]


def _networks(data: str) -> list[str]:
    """The kinds of networks that take part."""
    if data not in SETTINGS:
        raise ValueError(f"data must be one of {', '.join(SETTINGS)}, got {data!r}")
    kinds = [SETTINGS[data].plain, "surrogate", "distilled", "fgsm-trained", "ensemble-trained"]
    return kinds + [f"substitute-{name.lower()}" for name in VICTIMS]


def matrix(
    victims: Mapping[str, Victim],
    surrogate,
    x,
    y,
    *,
    eps: float = EPS,
    eps_l2: float = EPS_L2,
    bounds=(0.0, 1.0),
    attacks: Mapping[str, Attack] | None = None,
    threats=THREATS,
    sizes=SIZES,
    progress: bool = False,
) -> Matrix:
    """Run every attack on every victim under every threat model.

    Args:
        victims: name -> `Victim`.
        surrogate: a classifier trained on the same data, for transfer.
        x: (n, *image) images, at least one.
        y: (n,) their labels.
        eps: L∞ size at which the accuracy under the sign attacks is taken; positive.
        eps_l2: L2 length within which the accuracy under every attack is taken; positive.
        bounds: the pixel box (low, high).
        attacks: name -> `Attack`; by default `all_attacks()`.
        threats: which of `THREATS`.
        sizes: sizes at which the sign attacks look for their smallest perturbation.
        progress: show a bar.

    Returns:
        A `Matrix`; its provenance is left empty.
    """
    x = check.images("x", x)
    y = check.labels("y", y, x)
    if not len(x):
        raise ValueError("x must hold at least one image, got none")
    eps, eps_l2 = check.positive("eps", eps), check.positive("eps_l2", eps_l2)
    bounds = check.box("bounds", bounds, x)
    unknown = [threat for threat in threats if threat not in THREATS]
    if unknown or not victims:
        raise ValueError(f"threats must be among {THREATS} and victims not empty, got {list(threats)} and {victims!r}")
    attacks = all_attacks() if attacks is None else attacks
    found = _outcomes(victims, surrogate, x, y, eps, bounds, attacks, threats, sizes, progress)
    return _counted(found, (tuple(victims), tuple(threats), tuple(attacks)), eps_l2)


def _outcomes(victims, surrogate, x: Tensor, y: Tensor, eps, bounds, attacks, threats, sizes, progress) -> Outcomes:
    right = torch.stack([_labels(victim.answer, x) == y for victim in victims.values()], 1)
    shape = len(x), len(victims), len(threats), len(attacks)
    kept = torch.zeros(shape, dtype=torch.bool, device=x.device)
    nearest = torch.full(shape, torch.nan, dtype=x.dtype, device=x.device)
    bar = tqdm(total=len(attacks) * (len(threats) * len(victims)), desc="matrix", disable=not progress)
    for a, attack in enumerate(attacks.values()):
        made: dict[int, list] = {}
        for v, victim in enumerate(victims.values()):
            sources = dict(zip(THREATS, (victim.naive, victim.adaptive, surrogate, victim.substitute), strict=True))
            for t, threat in enumerate(threats):
                bar.update()
                source = sources[threat]
                if source is None:
                    continue
                # What was made for one network is shown to every victim.
                if id(source) not in made:
                    made[id(source)] = _candidates(attack, source, x, y, bounds, {*sizes, eps} if attack.sized else ())
                kept[:, v, t, a], nearest[:, v, t, a] = _verdict(victim.answer, x, y, made[id(source)], eps)
    bar.close()
    return Outcomes(right, kept & right[:, :, None, None], nearest)


def _counted(found: Outcomes, names: tuple[tuple[str, ...], ...], eps_l2: float) -> Matrix:
    """Shares and medians over the images."""
    measured = ~found.nearest[0].isnan()
    within = found.right[:, :, None, None] & (found.nearest > eps_l2)
    accuracy, accuracy_l2 = (kept.double().mean(0).where(measured, torch.nan) for kept in (found.kept, within))
    distance = torch.full_like(accuracy, torch.nan)
    for v, right in enumerate(found.right.T):
        if right.any():
            distance[v] = found.nearest[right, v].median(0).values
    return Matrix(*names, accuracy, accuracy_l2, distance, found.right.double().mean(0), {})


def run(
    data: str = "digits",
    *,
    weights: Path | str = models.WEIGHTS,
    images: int = 100,
    seed: int = 0,
    chunk: int = 25,
    root: Path | str | None = None,
    store: Path | str | None = None,
    client: Client | None = None,
    progress: bool = False,
) -> Matrix:
    """The whole matrix on held-out images of `data`, with its provenance: `python -m companion arms-race digits`.

    Args:
        data: "digits" or "cifar10"; `SETTINGS` has the sizes of each.
        weights: folder with `registry.json` and the networks, as `train` leaves it (default: the shipped ones).
        images: how many of the held-out images, at least 1; the first ones.
        seed: seeds the random defence, anew for every chunk; 0 to 4095.
        chunk: images at a time.
        root: folder with the data set, see `companion.data`; digits come with the package.
        store: folder or fsspec address (s3://bucket/folder) where every chunk is kept, which runs and machines may
            share. Given again, with as many images or more, it goes on with those that are missing. By default nothing
            is kept.
        client: a Dask client (`dask.distributed.Client`), whose workers measure; by default this process does. They
            need the same versions and, in the same place, `weights` and the store.
        progress: show a bar.

    Raises:
        ValueError: unknown `data`, or networks are missing; a worker has other versions or networks, or does not see
            the store. Missing or damaged data are reported as by `companion.data`.
        OSError: the store cannot be written to, the scheduler was lost, or workers were ended again and again.
        RuntimeError: a chunk is not as it was written.
    """
    images = check.integer("images", images, minimum=1)
    chunk = check.integer("chunk", chunk, minimum=1)
    seed = check.integer("seed", seed, minimum=0)
    if seed >= 2**12:
        raise ValueError(f"seed must be less than {2**12}, got {seed!r}")
    weights = Path(weights).absolute()
    shipped_victims(data, weights=weights)  # says which networks are missing
    x, y, copy = _held_out(data, root, progress)
    x, y = x[:images], y[:images]
    hashes = {f"{data}/{kind}": models.card(f"{data}/{kind}", folder=weights)["sha256"] for kind in _networks(data)}
    setting = SETTINGS[data]
    attacks = tuple(all_attacks(pixels=setting.pixels))
    plan = {"measure": "arms race", "data": data, "copy": copy, "weights": hashes, "seed": seed}
    plan |= {"setting": setting._asdict(), "attacks": attacks}
    where = None if store is None else Store(store)
    job = Job(f"arms race {data}", measure, plan, len(x), chunk, where, "cpu", weights, given=(x, y))
    columns, made = _jobs.columns(_jobs.run(job, client=client, progress=progress))
    seconds = columns.pop("seconds").item()
    found = _counted(Outcomes(**columns), (VICTIMS, THREATS, attacks), setting.eps_l2)
    options = f"--images {len(x)} --seed {seed} --chunk {chunk}"
    versions = {"companion": job.plan["version"], "python": made["python"], "torch": made["torch"]}
    return found._replace(
        provenance={
            "command": f"python -m companion arms-race {data} {options} --out FILE",
            "data": f"{len(x)} held-out images of {data}",
            "eps": setting.eps,
            "eps_l2": setting.eps_l2,
            "seed": seed,
            "commit": made["commit"],
            "device": f"{made['device']} ({platform.machine()})",
            "versions": versions,
            "weights": hashes,
            "seconds": round(seconds),
        }
    )


def measure(job: Job, index: int) -> dict[str, Tensor]:
    """The `Outcomes` of one chunk of images."""
    data, start = job.plan["data"], index * job.chunk
    x, y = (part[start : start + job.rows(index)] for part in job.given)
    began, setting = time.perf_counter(), SETTINGS[data]
    seed = (job.plan["seed"] << 20) + index
    victims, surrogate = shipped_victims(data, weights=job.weights or models.WEIGHTS, seed=seed)
    options = (setting.eps, (0.0, 1.0), all_attacks(pixels=setting.pixels), THREATS, setting.sizes, False)
    found = _outcomes(victims, surrogate, x, y, *options)
    return found._asdict() | {"seconds": torch.tensor([time.perf_counter() - began])}


def _held_out(data: str, root: Path | str | None, progress: bool) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Images in [0, 1] that no network was trained on, their labels, and which copy of the data this is."""
    if data == "digits":
        return *sets.held_out_digits(), {}
    found: sets.Images = getattr(sets, data)(root=root, progress=progress)
    return found.test_images / 255, found.test_labels, found.copy


def save(found: Matrix, path: Path | str) -> None:
    """Write a `Matrix` as JSON; numbers rounded to four digits, `inf` and NaN as text."""
    fields = found._asdict()
    for name in ("accuracy", "accuracy_l2", "distance", "clean"):
        fields[name] = _plain(fields[name])
    _files.write_json(Path(path), _files.seal(fields), indent=1)


def load(path: Path | str) -> Matrix:
    """The `Matrix` that `save` wrote; "digits" and "cifar10" stand for those that come with the package.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: it is not as it was written.
    """
    path = Path(path) if "." in str(path) else RESULTS / f"arms_race-{path}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no such result: {path}; it is made by: python -m companion arms-race --help")
    remedy = "make it again: python -m companion arms-race --help"
    fields = _files.unseal(_files.read_json(path, remedy), path, remedy)
    if set(fields) != set(Matrix._fields):
        raise RuntimeError(f"{path} is of another version of the package; {remedy}")
    for name in ("accuracy", "accuracy_l2", "distance", "clean"):
        fields[name] = _tensor(fields[name])
    for name in ("victims", "threats", "attacks"):
        fields[name] = tuple(fields[name])
    return Matrix(**fields)


def _candidates(attack: Attack, source, x: Tensor, y: Tensor, bounds, sizes) -> list[tuple[float | None, Tensor]]:
    """Size and result of each run of an attack, the smallest size first."""
    if not attack.sized:
        return [(None, attack.run(source, x, y, bounds))]
    return [(size, attack.run(source, x, y, bounds, size)) for size in sorted(sizes)]


def _verdict(answer, x: Tensor, y: Tensor, candidates, eps: float) -> tuple[Tensor, Tensor]:
    """Whether each image stays unfooled at `eps`, and the distance of the nearest candidate that fools."""
    nearest = torch.full(y.shape, torch.inf, dtype=x.dtype, device=x.device)
    for size, image in candidates:
        fooled = _labels(answer, image) != y
        if size is None or size == eps:
            kept = ~fooled
        length = (image - x).flatten(1).norm(dim=1)
        nearest = torch.where(fooled & (length < nearest), length, nearest)
    return kept, nearest


@torch.no_grad()
def _labels(classifier, x: Tensor) -> Tensor:
    return check.classify(classifier, x).argmax(1)


def _plain(value: Tensor):
    if value.ndim:
        return [_plain(part) for part in value]
    number = value.item()
    return float(f"{number:.4g}") if value.isfinite() else str(number)


def _tensor(value) -> Tensor:
    if isinstance(value, list):
        return torch.stack([_tensor(part) for part in value])
    return torch.tensor(float(value), dtype=torch.float64)
