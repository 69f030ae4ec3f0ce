"""Fit the multipliers of shipped networks and store them: python tools/multipliers.py digits/generator"""

import sys

from companion import _registry, models
from companion.certificates import certified_lipschitz, fit_multipliers
from companion.certificates.stored import FOLDER

for name in sys.argv[1:]:
    generator = models.load(name)
    shape = (generator.latent_dim,)
    fitted = fit_multipliers(generator, shape)
    constant = float(certified_lipschitz(generator, shape, multipliers=fitted).constant)
    fitted = {f"{k:02}": part for k, part in enumerate(fitted)}
    recipe = {"recipe": f"python tools/multipliers.py {name}"}
    _registry.add(FOLDER, name, f"{name.replace('/', '-')}.safetensors", fitted, recipe)
    print(f"{name}: certified {constant:.6g}")
