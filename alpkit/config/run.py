"""The configuration of one run: model, task, sampler, trainer, objective, perturbation, seed. Imports no torch.

Cells are hashed by `RunConfig.identity()` (`identity.py`). How often a run saves itself and what its machine
can hold are no part of it.
"""

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from alpkit.config.base import Section
from alpkit.config.environment import EnvironmentConfig, ToolMathConfig
from alpkit.config.filters import FilterConfig, Overlong, sample_bounds
from alpkit.config.hardware import HardwareConfig, renamed
from alpkit.config.identity import cell_id, identity
from alpkit.config.objective import ObjectiveConfig
from alpkit.config.perturbation import PerturbationConfig
from alpkit.config.tasks import (
    PLAIN_PROMPT,
    AdditionConfig,
    EvalConfig,
    EvalSetConfig,
    FileConfig,
    PromptConfig,
    TaskConfig,
)

ANY_TURNS: Final = "any_turns"
"""Validation context of a run that stands for a method alone: turn levels are legal, whatever it is used on."""
_FABRICATES = (
    "so the returned log-prob is not the trainer's quantity and every ratio is fabricated; remove it "
    "(trl#6789 measured mean ratio = kept probability mass)"
)
_REFUSED_SAMPLING = {
    "top_p": f"renormalises over the nucleus, {_FABRICATES}",
    "top_k": f"renormalises over k tokens, {_FABRICATES}",
    "min_p": f"renormalises over the tokens it keeps, {_FABRICATES}",
    "typical_p": f"renormalises over the tokens it keeps, {_FABRICATES}",
    "repetition_penalty": f"reshapes the distribution by what was sampled before, {_FABRICATES}",
    "presence_penalty": f"reshapes the distribution by what was sampled before, {_FABRICATES}",
    "frequency_penalty": f"reshapes the distribution by what was sampled before, {_FABRICATES}",
    "logit_bias": f"samples from other logits than the trainer's, {_FABRICATES}",
    "min_tokens": f"forbids the end token, which the trainer's distribution allows, {_FABRICATES}",
}


class _Rollout(Section):
    refused: ClassVar[dict[str, str]] = _REFUSED_SAMPLING

    prompts: PositiveInt = 64
    """Prompts per step."""
    group: Annotated[int, Field(ge=2)] = 8
    """Responses per prompt; advantages are relative to the group."""
    max_tokens: PositiveInt = 8
    """Longest response, tokens."""
    temperature: PositiveFloat = 1.0
    """Both engines divide logits by it."""
    top_logprobs: NonNegativeInt = 0
    """Likeliest tokens of every position that the sampler returns with their log-probs (at most its
    vocabulary): for objective.centering or records.top_logprobs, 0 without one of them. 128 is usual."""
    lag: NonNegativeInt = 0
    """How many steps older than the trainer's the sampler's weights are."""
    filter: FilterConfig = FilterConfig()
    """Prompts that are not asked and groups that are not trained on."""
    overlong: Overlong = "keep"
    """Responses that were cut off at max_tokens. mask: left out of loss, statistics and token records, though their
    reward counts in the group's mean; zero_reward: scored 0, whatever they earned."""


class HfRolloutConfig(_Rollout):
    """Sampling by transformers, on a copy of the weights that may be rounded."""

    refused: ClassVar[dict[str, str]] = _REFUSED_SAMPLING | renamed("rollout", "batch")

    engine: Literal["hf"] = "hf"
    weights: Literal["float32", "bfloat16", "float16", "int8", "int4"] = "float32"
    """Precision that the weight matrices of the sampler's blocks are rounded to: a dial for the train/inference
    mismatch."""


class VllmRolloutConfig(_Rollout):
    """Sampling by vLLM, in the trainer's process."""

    refused: ClassVar[dict[str, str]] = _REFUSED_SAMPLING | renamed("rollout")

    engine: Literal["vllm"]
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Compute dtype of vLLM's copy."""
    head_dtype: Literal["auto", "float32"] = "auto"
    """float32: vLLM forms its logits in float32 whatever its dtype; auto: in its dtype."""
    kv_cache_dtype: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = "auto"
    """Storage of keys and values; fp8 is the largest mismatch one key can make."""
    max_model_len: PositiveInt = 1024
    """Longest prompt plus response, tokens."""

    @field_validator("head_dtype")
    @classmethod
    def _drop_a_float32_head_of_a_float32_engine(cls, value: str, info: ValidationInfo) -> str:
        return "auto" if info.data.get("dtype") == "float32" else value


RolloutConfig = Annotated[HfRolloutConfig | VllmRolloutConfig, Field(discriminator="engine")]


class TrainConfig(Section):
    """Length of the training, and its optimizer."""

    refused: ClassVar[dict[str, str]] = renamed("train")

    steps: Annotated[PositiveInt, Field(le=10_000_000)] = 60
    """Rollouts; each is followed by `updates_per_rollout` optimizer updates."""
    updates_per_rollout: PositiveInt = 16
    """Disjoint mini-batches of one rollout, one pass: the staleness dial."""
    lr: NonNegativeFloat = 2e-5
    """AdamW learning rate of the policy; 0: the noise-floor control, whose policy never moves."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rates after the warm-up, also log sigma's: linear and cosine fall towards 0, which the update after
    the last would have."""
    warmup: NonNegativeInt = 0
    """Steps over which the learning rates rise evenly, update by update, to their full size."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit: AdamW whose two moments take a byte each (bitsandbytes); log sigma's stay float32."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW weight decay of the policy."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW betas."""
    grad_clip: PositiveFloat = 1.0
    """Largest joint gradient norm (policy and log sigma)."""

    @model_validator(mode="after")
    def _the_warm_up_ends_within_the_run(self) -> Self:
        if self.warmup and self.warmup >= self.steps:
            raise ValueError(
                f"warmup {self.warmup} is no shorter than the run of train.steps {self.steps}, so that no step would "
                "have the full learning rate; lower warmup, or raise steps"
            )
        return self


class DiagnosticsConfig(Section):
    """Measurements of the ratio's factors, and when a run stops itself."""

    refused: ClassVar[dict[str, str]] = {
        "agreement_with": "is no longer a field: `alpkit replay RUN_ID --methods NAME` counts the tokens that "
        "two corrections remove; take it out"
    }

    every: PositiveInt = 1
    """Steps between the extra forwards that the factors of the ratio need; recorded steps always have them."""
    batching_floor: NonNegativeInt = 32
    """Responses of the first step that are scored alone and eight at a time, which shows what batching alone does
    to the log-probs; 0: not measured."""
    max_nonfinite: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of non-finite sampler log-probs in a step past which the run stops."""
    probe_tolerance: PositiveFloat | None = None
    """Largest mean |log-prob gap| after a weight sync, nats; default: the engine's own by precision."""


class RecordsConfig(Section):
    """Records: the steps that keep the log-probs of every token."""

    every: PositiveInt = 10
    """Steps between per-token Parquet records (the first and the last step, and every spike, always)."""
    weight: bool = False
    """Also record each token's applied weight; it follows from the log-probs and the objective."""
    top_logprobs: bool = False
    """Also record the sampler's likeliest tokens of every position (rollout.top_logprobs)."""
    replay: bool = False
    """Keep the weights from before every recorded step's first update, for gradients in `alpkit replay`; a
    step recorded only because it spiked has none."""


class CheckpointConfig(Section):
    """Checkpoints, from which a run resumes. No part of a cell's id."""

    every: PositiveInt = 10
    """Steps between checkpoints."""
    keep: PositiveInt = 2
    """Newest checkpoints kept."""


class RunConfig(Section):
    """One cell: everything that decides its numbers."""

    model: str = "builtin:tiny-addition"
    """builtin:tiny-addition | builtin:tiny-tool | builtin:smollm2-135m | a hub id | a local folder."""
    revision: str | None = None
    """Revision of a hub model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """bfloat16, float16: float32 master weights with autocast; float16 with a loss scale that is found on the way."""
    head: Literal["autocast", "float32"] = "autocast"
    """float32: LM head and log-softmax stay out of the autocast; without one it makes no difference and is dropped."""
    task: TaskConfig = AdditionConfig()
    prompt: PromptConfig = PLAIN_PROMPT
    environment: EnvironmentConfig | None = None
    """What answers between the model's turns; absent: a response is one turn."""
    rollout: RolloutConfig = HfRolloutConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    evals: tuple[EvalSetConfig, ...] = ()
    """Evaluation sets instead of the one that eval describes; eval/* is then the unweighted mean over them."""
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()
    records: RecordsConfig = RecordsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    hardware: HardwareConfig = HardwareConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    perturbation: PerturbationConfig | None = None
    seed: NonNegativeInt = 0
    """Keys every random stream: prompts, sampling, noise. In a grid it comes from `seeds`."""

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        defaults = {"task": ("name", "addition"), "rollout": ("engine", "hf")}
        defaults["environment"] = ("name", "tool_math")
        for section, (key, default) in defaults.items():
            if isinstance(data.get(section), dict):
                data[section] = {key: default, **data[section]}
        return data

    @field_validator("head")
    @classmethod
    def _drop_a_float32_head_without_autocast(cls, value: str, info: ValidationInfo) -> str:
        return "autocast" if info.data.get("dtype") == "float32" else value

    @field_validator("perturbation")
    @classmethod
    def _drop_what_attaches_nothing(
        cls, value: PerturbationConfig | None
    ) -> PerturbationConfig | None:
        return None if value is not None and value.attaches_nothing else value

    @field_validator("evals")
    @classmethod
    def _sets_have_names_of_their_own(
        cls, value: tuple[EvalSetConfig, ...]
    ) -> tuple[EvalSetConfig, ...]:
        for index, entry in enumerate(value):
            if entry.name in [earlier.name for earlier in value[:index]]:
                raise ValueError(
                    f"two sets are named {entry.name!r}; give one of them another name"
                )
        return value

    @model_validator(mode="after")
    def _mini_batches_divide_the_rollout(self) -> Self:
        samples = self.rollout.prompts * self.rollout.group
        if self.rollout.prompts % self.train.updates_per_rollout:
            raise ValueError(
                f"train.updates_per_rollout {self.train.updates_per_rollout} does not divide rollout.prompts "
                f"{self.rollout.prompts} ({samples} responses), so mini-batches would differ in size or cut a group; "
                "choose a divisor"
            )
        return self

    @model_validator(mode="after")
    def _a_sequence_fits_the_token_budget(self) -> Self:
        budget, response = self.hardware.micro_batch_tokens, self.rollout.max_tokens
        prompt = self.rollout.filter.max_prompt
        if prompt is not None and budget < prompt + response:
            raise ValueError(
                f"hardware.micro_batch_tokens {budget} is a hard bound, and a prompt of rollout.filter.max_prompt "
                f"{prompt} with a response of rollout.max_tokens {response} is longer; raise it to {prompt + response}"
            )
        if budget <= response:
            raise ValueError(
                f"hardware.micro_batch_tokens {budget} is a hard bound, and a prompt with a response of "
                f"rollout.max_tokens {response} is longer; raise it above the longest prompt and response"
            )
        return self

    @model_validator(mode="after")
    def _candidates_are_asked_for_where_they_are_used(self) -> Self:
        centred = self.objective.centering.kind != "none"
        if (centred or self.records.top_logprobs) and self.rollout.top_logprobs == 0:
            by = "objective.centering" if centred else "records.top_logprobs"
            raise ValueError(
                f"{by} needs the sampler's likeliest tokens; set rollout.top_logprobs (128 is usual)"
            )
        if (centred or self.records.top_logprobs) and self.environment is not None:
            by = "objective.centering" if centred else "records.top_logprobs"
            raise ValueError(
                f"{by}: a conversation's turns are sampled apart and their likeliest tokens are not put together; "
                "leave environment out, or this"
            )
        if self.rollout.top_logprobs and not centred and not self.records.top_logprobs:
            unused = self.rollout.model_copy(update={"top_logprobs": 0})
            object.__setattr__(self, "rollout", unused)
        return self

    @model_validator(mode="after")
    def _turn_levels_need_turns(self, info: ValidationInfo) -> Self:
        objective = self.objective
        if (info.context or {}).get(ANY_TURNS):
            return self
        for section, level in (
            ("ratio", objective.ratio.level),
            ("weight", objective.weight.level),
        ):
            if level in ("turn", "cumulative_turn") and self.environment is None:
                raise ValueError(
                    f"objective.{section}.level: in responses of one turn, {level} is the product, so this arm would "
                    "be another one's copy under its own name; set level: product, or add an environment"
                )
        return self

    @model_validator(mode="after")
    def _an_environment_can_act(self) -> Self:
        environment, whole = self.environment, self.rollout.max_tokens
        if environment is None:
            return self
        if environment.turn_tokens is not None and environment.turn_tokens >= whole:
            raise ValueError(
                f"environment.turn_tokens {environment.turn_tokens} bounds nothing: rollout.max_tokens {whole} holds "
                "all turns and what comes between them; lower the one, or raise the other"
            )
        if self.rollout.engine == "vllm" and self.rollout.max_model_len <= whole:
            raise ValueError(
                f"rollout.max_model_len {self.rollout.max_model_len} must hold a prompt and a response of "
                f"rollout.max_tokens {whole}, all turns and what comes between them; raise it"
            )
        tasks = [("task", self.task)]
        tasks += [(f"evals[{i}].task", e.task) for i, e in enumerate(self.evals) if e.task]
        for where, task in tasks if isinstance(environment, ToolMathConfig) else ():
            exact = isinstance(task, FileConfig) and task.grader == "exact"
            if exact or isinstance(task, AdditionConfig):
                raise ValueError(
                    f"environment: tool_math ends with an answer in \\boxed{{}}, and {where} compares whole texts, so "
                    "that no response could be right; use a task that reads a box, such as math, file with grader: "
                    "math or number, or reasoning_gym"
                )
        return self

    @model_validator(mode="after")
    def _no_double_count_of_the_drift(self) -> Self:
        objective = self.objective
        if self.perturbation is not None and objective.weight.action != "none":
            raise ValueError(
                "objective.weight.action: a perturbed ratio and a separate weight correct the same drift twice (ALP "
                "replaces the two-factor correction); set it to none, or drop the perturbation"
            )
        if self.perturbation is not None and objective.ratio.denominator == "current":
            raise ValueError(
                "objective.ratio.denominator: current cancels the perturbation; "
                "set denominator: rollout, or drop the perturbation"
            )
        return self

    @property
    def turn_tokens(self) -> int:
        """Longest turn of the model, tokens; of a response of one turn, all of it."""
        own = None if self.environment is None else self.environment.turn_tokens
        return own or self.rollout.max_tokens

    @property
    def draws(self) -> int:
        """Forwards with noise per micro-batch; 1 without noise."""
        return 1 if self.perturbation is None else self.perturbation.draws

    @property
    def bounds(self) -> dict[str, tuple[str, ...]]:
        """List what this run was set to do to samples and loss, each with the `receipt/` counts of what it touched."""
        return self.objective.bounds | sample_bounds(self.rollout.filter, self.rollout.overlong)

    def identity(self) -> dict[str, object]:
        """Return the canonical JSON-ready form of what decides this run's numbers."""
        made, budget = identity(self), self.hardware.micro_batch_tokens
        if self.objective.cut_matters and budget != HardwareConfig().micro_batch_tokens:
            made["micro_batch_tokens"] = budget
        return made

    def cell_id(self) -> str:
        """Return the id of the cell that this config makes: 10 hex digits."""
        return cell_id(self.identity())
