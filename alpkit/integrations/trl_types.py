"""Attributes of a TRL trainer that alpkit relies on: TRL ships no types of its own."""

from typing import Protocol

from torch import Tensor


class Args(Protocol):
    """Fields of GRPOConfig."""

    steps_per_generation: int
    gradient_accumulation_steps: int
    generation_batch_size: int
    learning_rate: float
    max_grad_norm: float
    seed: int
    loss_type: str
    top_entropy_quantile: float
    epsilon: float
    epsilon_high: float | None
    delta: float | None
    importance_sampling_level: str
    off_policy_mask_threshold: float | None
    beta: float


class Accelerator(Protocol):
    """Place of a process among all of the run."""

    is_main_process: bool
    num_processes: int
    process_index: int


class State(Protocol):
    """Progress of the training."""

    global_step: int
    max_steps: int


class ModelConfig(Protocol):
    """Configuration of the model: where it came from."""

    _name_or_path: str


class Model(Protocol):
    """The trained model."""

    training: bool
    config: ModelConfig


class Trainer(Protocol):
    """A GRPOTrainer."""

    args: Args
    accelerator: Accelerator
    state: State
    model: Model
    num_iterations: int
    num_generations: int
    max_completion_length: int
    temperature: float
    use_vllm: bool
    vllm_importance_sampling_correction: bool
    vllm_importance_sampling_mode: str
    vllm_importance_sampling_clip_min: float | None
    vllm_importance_sampling_clip_max: float
    reward_weights: Tensor
    _step: int

    def add_callback(self, callback: object) -> None: ...
