"""The 100 random inputs of `data/psis_khat_random.json`, remade from their seeds.

Pure Python: `random.Random.random` is the one stream that every version and platform shares.
"""

import math
import random
from statistics import NormalDist


def draw(seed: int, family: str, shape: float, n: int) -> list[float]:
    """Log ratios, rounded to 6 decimals so that a library's last digit changes nothing."""
    stream = random.Random(seed)
    normal = NormalDist().inv_cdf
    values = []
    for _ in range(n):
        u = stream.random() * (1 - 2e-12) + 1e-12
        if family == "gpd":
            value = math.log1p((u**-shape - 1) / shape)
        elif family == "normal":
            value = shape * normal(u)
        elif family == "student":  # normal over a root mean square: Student-like, shape degrees
            scale = -math.log(stream.random() * (1 - 2e-12) + 1e-12)
            value = 0.2 * normal(u) / (0.1 + scale) ** (1 / shape)
        elif family == "uniform":
            value = shape * (2 * u - 1)
        else:  # laplace
            value = -shape * math.log(2 * min(u, 1 - u)) * (1 if u > 0.5 else -1)
        values.append(round(value, 6))
    return values
