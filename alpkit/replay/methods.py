"""Which corrections a replay compares: the run's own, presets by name, YAML files.

A YAML file is written like an arm: `objective:` and, if wanted, `preset:` and `perturbation:`.
Imports no torch.

    methods_of(["token-tis", "mine.yaml"], config)
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from alpkit.config import (
    PRESETS,
    Document,
    ObjectiveConfig,
    PerturbationConfig,
    Preset,
    RunConfig,
    preset,
)
from alpkit.config.files.faults import explain
from alpkit.config.files.yaml import Fault, config_error, load_yaml
from alpkit.config.grid.overlay import Overlay
from alpkit.config.objective import ReferenceKLConfig
from alpkit.errors import ConfigError, did_you_mean

OWN: Final = "own"
_KEYS: Final = ("preset", "objective", "perturbation")


class Method(NamedTuple):
    """A correction to replay; `own`: it is what the run itself trained with.

    `objective` has no pull to a reference policy: its log-probs are in no record.
    """

    name: str
    objective: ObjectiveConfig
    perturbation: PerturbationConfig | None
    own: bool

    def obstacle(self, columns: Collection[str], own: PerturbationConfig | None) -> str:
        """Why log-probs that were recorded do not give this method's loss; '' where they do.

        `columns`: the log-probs that the step recorded; `own`: the perturbation of the run.
        """
        if self.objective.needs_logp_old and "logp_old" not in columns:
            return "it uses pi_old, which this step did not compute (diagnostics.every)"
        if self.perturbation is None:
            known = "logp_train" in columns
            return "" if known else "this step did not compute log pi_theta (diagnostics.every)"
        if self.perturbation != own:
            return "its noise is not the run's, so only the model can give its log-probs"
        if self.perturbation.draws > 1:
            return "its loss is averaged over draws of noise, of which only the first is recorded"
        return "" if "logp_perturbed" in columns else "logp_perturbed was not recorded"


def methods_of(names: Sequence[str], config: RunConfig) -> list[Method]:
    """The run's own method, then the named ones; own goes by a given name where one of them is it.

    Raises `ConfigError` for a name that is neither a preset nor a readable YAML file.
    """
    own = _method(OWN, config, True)
    named = [_method(name, _settings(name), False) for name in dict.fromkeys(names)]
    found = [method._replace(own=method[1:3] == own[1:3]) for method in named]
    return found if any(method.own for method in found) else [own, *found]


def _method(name: str, config: RunConfig, own: bool) -> Method:
    objective = config.objective.model_copy(update={"reference_kl": ReferenceKLConfig()})
    return Method(name, objective, config.perturbation, own)


def _settings(name: str) -> RunConfig:
    """A run of the method, everything else default: the run config checks the combination."""
    if name not in PRESETS and (name.endswith((".yaml", ".yml")) or Path(name).is_file()):
        return _from_file(name)
    try:
        return RunConfig.model_validate(preset(name, where="--methods").settings)
    except ConfigError as error:
        error.why = "a method is a preset or a YAML file, and there is no such file"
        raise


def _from_file(name: str) -> RunConfig:
    document = load_yaml(name)
    overlay = Overlay(name)
    faults = [_unknown(document, key) for key in document.data if key not in _KEYS]
    start: Preset | None = None
    try:
        start = preset(document.data.get("preset", "grpo"))
    except ConfigError as error:
        faults.append(Fault(document.position(("preset",)), error.what, error.fix))
    if not faults and not document.data.keys() & set(_KEYS):
        faults.append(Fault(name, "sets nothing", "write objective:, perturbation: or preset:"))
    if faults or start is None:
        raise config_error(faults)
    overlay.merge((), start.settings, Document.constant({}, name), ())
    for key in ("objective", "perturbation"):
        if key in document.data:
            overlay.merge((key,), document.data[key], document, (key,))
    try:
        return RunConfig.model_validate(overlay.data)
    except ValidationError as error:
        raise explain(error, overlay.document, model=RunConfig) from error


def _unknown(document: Document, key: str) -> Fault:
    where = document.position((key,), key=True)
    return Fault(where, f"{key} is not a field of a method", did_you_mean(key, _KEYS, "allowed"))
