"""Fit the multipliers of shipped networks and store them: python tools/multipliers.py digits/generator"""

import hashlib
import json
import sys

from safetensors.torch import save

from companion import models
from companion.certificates import certified_lipschitz, fit_multipliers
from companion.certificates.stored import FOLDER

for name in sys.argv[1:]:
    generator = models.load(name)
    shape = (generator.latent_dim,)
    fitted = fit_multipliers(generator, shape)
    constant = float(certified_lipschitz(generator, shape, multipliers=fitted).constant)
    content = save({f"{k:02}": part for k, part in enumerate(fitted)})
    path = FOLDER / f"{name.replace('/', '-')}.safetensors"
    path.write_bytes(content)
    registry = FOLDER / "registry.json"
    entries = json.loads(registry.read_text(encoding="utf-8")) if registry.is_file() else {}
    recipe = f"python tools/multipliers.py {name}"
    entries[name] = {"file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "recipe": recipe}
    registry.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{name}: certified {constant:.6g}, {len(content)} bytes")
