"""Measure the generators of the chapter on certificates and store what it reads: python tools/certificates.py

For every generator (or only some: python tools/certificates.py lipschitz-2) and every classifier: radii r_in found by
attack, distances to the nearest of 20,000 images of another label, both of the same 300 latents (of the first 150 for
the slow convolutional network), and the labels counted of 20,000 latents. What is in the file already is not measured
again: delete the file to begin anew. About 20 minutes.
"""

import sys
from pathlib import Path

import torch

from companion import _files, models
from companion.robustness import in_distribution_radius
from companion.training import LIPSCHITZ
from companion.vulnerability import nearest_other_label

FILE = Path(__file__).parents[1] / "companion" / "results" / "certificates-digits.json"
ROWS, COUNTED = {"linear": 300, "mlp": 300, "cnn": 150}, 20_000


def gaussian(rows: int, seed: int) -> torch.Tensor:
    """Latents (rows, 16)."""
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measure(generator, classifier, rows: int) -> dict:
    """Plain numbers for one pair, in float64."""
    z = gaussian(300, seed=0)[:rows]
    radii = in_distribution_radius(generator, classifier, z, steps=30, metric_steps=15)
    rival = nearest_other_label(generator, classifier, z, samples=COUNTED)
    labels = torch.cat([classifier(generator(part)).argmax(1) for part in gaussian(COUNTED, seed=1).split(1_000)])
    rounded = {"radii": radii, "nearest": rival}
    return {name: [round(value, 5) for value in found.tolist()] for name, found in rounded.items()} | {
        "counts": labels.bincount(minlength=10).tolist()
    }


if __name__ == "__main__":
    stored = _files.read_json(FILE, "delete it to measure anew") if FILE.exists() else {}
    for kind in sys.argv[1:] or (*LIPSCHITZ, "generator"):
        for reader, rows in ROWS.items():
            if f"{kind}/{reader}" not in stored:
                pair = (models.load(f"digits/{name}").double() for name in (kind, reader))
                stored[f"{kind}/{reader}"] = measure(*pair, rows)
                _files.write_json(FILE, stored, sort_keys=True)
                print(f"{kind}/{reader}", flush=True)
