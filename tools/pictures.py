"""Make the pictures that widgets show of networks too large for a page, with the labels that these networks give:

python tools/pictures.py photographs digits

Whoever trains one of the networks again runs it again (a test asks for it) and executes the chapters `opening` and
`arms_race`. It takes about a minute.
"""

import sys

import torch

from companion import _files, arms_race, models
from companion.attacks import fgsm
from companion.data import CIFAR10_CLASSES, held_out_digits
from companion.widgets import _packed

SHADES = 16  # the largest change of a colour, of 255
SURE = 0.6
NETWORKS = {"vgg": "VGG", "wide-resnet": "Wide ResNet", "wide-resnet-adversarial": "trained on attacks"}
GREYS = 48  # real scans have 16, and a multiple of that leaves them as they are


def photographs():
    """Six photographs, moved along signs, as three networks see them at every size.

    Of 300 generated ones, rounded to whole colours: the first of each class of which all three networks are SURE.
    """
    generator = models.load("cifar10/generator")
    # In double precision, in which the gradient of a network that is very sure does not vanish.
    networks = {name: models.load(f"cifar10/{name}").double() for name in NETWORKS}
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        x = (255 * generator(torch.randn(300, generator.latent_dim, generator=draws))).round().double()
        sure, votes = torch.stack([network(x / 255).softmax(1) for network in networks.values()]).max(2)
    chosen = first_of_each((votes == votes[0]).all(0) & (sure.amin(0) >= SURE), votes[0], 6)
    x, y = x[chosen], votes[0, chosen]
    found = {"labels": y.tolist(), "photographs": [_packed.packed(image.byte()) for image in x], "networks": {}}
    coin = torch.rand(x.shape, generator=draws) < 0.5
    for name, network in networks.items():
        # One step of any size has the same signs. Where there is no gradient at all there is nothing to show.
        step = fgsm(network, x / 255, y, eps=1.0, keep_failed=True) - x / 255
        if (step == 0).any():
            raise SystemExit(f"{name}: a derivative is exactly 0; signs alone cannot say this")
        rows = {}
        for kind, up in {"gradient": step > 0, "random": coin}.items():
            # In exact whole colours, so that the page shows what the network saw.
            moved = torch.stack([(x + k * torch.where(up, 1, -1)).clamp(0, 255) for k in range(SHADES + 1)], 1)
            with torch.no_grad():
                shares = network(moved.flatten(0, 1) / 255).softmax(1).reshape(len(x), SHADES + 1, -1)
            top, label = shares.max(2)
            right = shares.gather(2, y[:, None, None].expand(-1, SHADES + 1, 1))[..., 0]
            rows[kind] = {
                "signs": [_packed.bits(one) for one in up],
                "label": label.tolist(),
                "sure": rounded(top),
                "right": rounded(right),
            }
        found["networks"][name] = {"name": NETWORKS[name]} | rows
    return found | {"classes": list(CIFAR10_CLASSES)}, "cifar10/"


def digits():
    """Three scans that all victims of the arms race read rightly, after each attack of its matrix, with the answers."""
    victims, surrogate = arms_race.shipped_victims("digits")
    x, y = (part[:100] for part in held_out_digits())
    with torch.no_grad():
        right = torch.stack([victim.answer(x).argmax(1) == y for victim in victims.values()]).all(0)
    chosen = first_of_each(right, y, 3)
    x, y = x[chosen], y[chosen]
    shape = len(x), len(victims), len(arms_race.THREATS), len(arms_race.all_attacks())
    images, answers = torch.zeros(*shape, x[0].numel()), torch.zeros(shape, dtype=torch.long)
    for a, attack in enumerate(arms_race.all_attacks().values()):
        size = (arms_race.EPS,) if attack.sized else ()
        for v, victim in enumerate(victims.values()):
            for t, source in enumerate((victim.naive, victim.adaptive, surrogate, victim.substitute)):
                made = attack.run(source, x, y, (0.0, 1.0), *size)
                with torch.no_grad():
                    answers[:, v, t, a] = victim.answer(made).argmax(1)
                images[:, v, t, a] = made.flatten(1)
    found = {"greys": GREYS, "labels": y.tolist(), "answers": answers.tolist()}
    found["digits"] = [_packed.letters(image, GREYS) for image in x]
    found["attacked"] = [[[[_packed.letters(i, GREYS) for i in r] for r in q] for q in p] for p in images]
    return found, "digits/"


def first_of_each(allowed, labels, count):
    """The first allowed row of each of `count` classes."""
    first = {}
    for k in allowed.nonzero()[:, 0].tolist():
        first.setdefault(int(labels[k]), k)
    if len(first) < count:
        raise SystemExit(f"there are pictures of {len(first)} classes only, and {count} are needed")
    return list(first.values())[:count]


def rounded(shares):
    return [[round(share, 3) for share in row] for row in shares.tolist()]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        found, prefix = {"photographs": photographs, "digits": digits}[name]()
        found["weights"] = {kind: models.card(kind)["sha256"] for kind in models.names() if kind.startswith(prefix)}
        found["command"] = f"python tools/pictures.py {name}"
        path = arms_race.RESULTS / f"pictures-{name}.json"
        _files.write_json(path, _files.seal(found))
        print(f"{path}: {path.stat().st_size} bytes")
