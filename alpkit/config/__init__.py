"""What a run is, in pydantic. Imports no torch (a test holds it to that)."""

from alpkit.config.objective import ObjectiveConfig, WeightConfig
from alpkit.config.perturbation import PerturbationConfig, resolve_layers
from alpkit.config.presets import PRESETS, Preset
from alpkit.config.run import RunConfig

__all__ = [
    "PRESETS",
    "ObjectiveConfig",
    "PerturbationConfig",
    "Preset",
    "RunConfig",
    "WeightConfig",
    "resolve_layers",
]
