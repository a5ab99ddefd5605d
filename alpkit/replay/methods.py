"""Select the corrections that a replay compares: the run's own, presets by name, method files.

A YAML file holds one method (`alpkit.config.grid.own_methods`).
Imports no torch.

    methods_of(["token-tis", "mine.yaml"], config)
"""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from alpkit.config import ObjectiveConfig, PerturbationConfig, RunConfig, preset
from alpkit.config.grid.own_methods import is_method_file, load_method
from alpkit.config.objective import ReferenceKLConfig
from alpkit.errors import ConfigError
from alpkit.runs.imported import Imported

OWN: Final = "own"


class Method(NamedTuple):
    """A correction to replay; `own`: it is what the run itself trained with.

    `objective` has no pull to a reference policy and no entropy bonus: no record has what they need.
    """

    name: str
    objective: ObjectiveConfig
    perturbation: PerturbationConfig | None
    own: bool

    @property
    def centred(self) -> bool:
        """Whether the loss needs log-probs of more than the sampled token."""
        return self.objective.centering.kind != "none"

    @property
    def by_sign(self) -> bool:
        """Whether weights or rejections look at the advantage."""
        return any(rule.when != "always" for rule in self.objective.reject)

    def obstacle(
        self,
        columns: Collection[str],
        run: RunConfig,
        *,
        absent: str = "this step did not compute it (diagnostics.every)",
    ) -> str:
        """Say why the records of `run` do not give this method's loss; '' where they do.

        `columns`: the log-probs that the step recorded; `absent`: why a log-prob may not be there.
        """
        own, environment = run.perturbation, run.environment
        per_turn = environment is not None and environment.credit == "turn"
        if per_turn and self.objective.advantage != run.objective.advantage:
            return "its advantages are others, and the rewards of single turns are in no record"
        if self.centred:
            return "its log-probs of the sampler's likeliest tokens are in no record"
        if self.objective.needs_logp_old and "logp_old" not in columns:
            return f"it uses pi_old: {absent}"
        if self.perturbation is None:
            return "" if "logp_train" in columns else f"it uses pi_theta: {absent}"
        if self.perturbation != own:
            return "its noise is not the run's, so only the model can give its log-probs"
        if self.perturbation.draws > 1:
            return "its loss is averaged over draws of noise, of which only the first is recorded"
        return "" if "logp_perturbed" in columns else "logp_perturbed was not recorded"


def methods_of(
    names: Sequence[str], config: RunConfig, imported: Imported | None = None
) -> list[Method]:
    """List the run's own method, then the named ones; where one of these equals it, it goes by that name.

    An imported run whose objective nobody said has none of its own. Raises `ConfigError` for a name that is
    neither a preset nor a readable YAML file.
    """
    own = _method(OWN, config, True)
    named = [_method(name, _settings(name), False) for name in dict.fromkeys(names)]
    if imported is not None and "objective" in imported.absent:
        return named
    found = [method._replace(own=method[1:3] == own[1:3]) for method in named]
    return found if any(method.own for method in found) else [own, *found]


def _method(name: str, config: RunConfig, own: bool) -> Method:
    without = {"reference_kl": ReferenceKLConfig(), "entropy_bonus": 0.0}
    objective = config.objective.model_copy(update=without)
    return Method(name, objective, config.perturbation, own)


def _settings(name: str) -> RunConfig:
    """Return a run of the method with everything else at its default, so that the combination is checked."""
    if is_method_file(name):
        return load_method(name).run
    try:
        return RunConfig.model_validate(preset(name, where="--methods").settings)
    except ConfigError as error:
        error.why = "a method is a preset or a YAML file, and there is no such file"
        raise
