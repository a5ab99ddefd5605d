"""Configuration of runs and grids, checked by pydantic. Imports no torch (a test holds it to that).

Usage: `grid = expand(load_ablation("experiments/quickstart.yaml", ["train.steps=5"]))`.
"""

from alpkit.config.correction import RejectConfig, WeightConfig
from alpkit.config.files.faults import explain
from alpkit.config.files.yaml import Document, dump_yaml, load_yaml
from alpkit.config.grid.ablation import Ablation, AblationConfig, LaunchConfig, load_ablation
from alpkit.config.grid.expand import Cell, Grid, expand
from alpkit.config.objective import ObjectiveConfig
from alpkit.config.perturbation import PerturbationConfig, resolve_layers
from alpkit.config.presets import PRESETS, Preset, preset
from alpkit.config.run import RunConfig

__all__ = [
    "PRESETS",
    "Ablation",
    "AblationConfig",
    "Cell",
    "Document",
    "Grid",
    "LaunchConfig",
    "ObjectiveConfig",
    "PerturbationConfig",
    "Preset",
    "RejectConfig",
    "RunConfig",
    "WeightConfig",
    "dump_yaml",
    "expand",
    "explain",
    "load_ablation",
    "load_yaml",
    "preset",
    "resolve_layers",
]
