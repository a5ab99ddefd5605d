"""A layerwise perturbation inside verl's FSDP actor: open in the update's forward, nowhere else.

Put `perturb(...)` into a module of your own and name it to verl, which imports it in every worker:

    # my_alp.py
    from alpkit.config import PRESETS, ObjectiveConfig, PerturbationConfig
    from alpkit.integrations.verl import register
    from alpkit.integrations.verl_noise import perturb

    register("alpkit", ObjectiveConfig.model_validate(PRESETS["seq-alp"].settings["objective"]))
    perturb(PerturbationConfig(sigma={"init": 0.01}))

    actor_rollout_ref.model.external_lib=my_alp actor_rollout_ref.actor.policy_loss.loss_mode=alpkit

`perturb` registers an engine of its own for the strategies `fsdp` and `fsdp2`. log pi_old, the reference
and the critic run without noise; log sigma is averaged over ranks, clipped with the weights, and written
beside every checkpoint. Not here: the loss (`alpkit.integrations.verl`).
"""

import math
import os
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import torch
from torch import Tensor

from alpkit.config.perturbation import PerturbationConfig
from alpkit.errors import ConfigError
from alpkit.integrations.log_sigma import (
    add_to_optimizer,
    average_gradient,
    gradient_norm,
    load_log_sigma,
    sample_ids,
    save_log_sigma,
)
from alpkit.policy.perturbation import LayerwisePerturbation

_SAMPLE: Final = "alpkit_sample"
_LOGGED: Final = ("sigma/mean", "sigma/min", "sigma/max", "noise/realised_std", "noise/to_rms")


class _Tokens(NamedTuple):
    """The tokens of a micro-batch's forward: the sample of each, and which are real."""

    sample: Tensor
    mask: Tensor


def perturb(config: PerturbationConfig, seed: int = 0) -> None:
    """Make verl's FSDP actor train under `config`'s noise; call it once, before verl builds the actor.

    Raises
    ------
    ConfigError : several draws, a sigma to be calibrated, or a second call in one process.
    """
    if config.draws > 1:
        raise ConfigError(
            f"perturbation.draws: {config.draws} is not possible inside verl",
            why="its engine makes one forward per micro-batch",
            fix="set draws: 1",
        )
    if config.gradient == "clean":
        raise ConfigError(
            "perturbation.gradient: clean is not possible inside verl",
            why="it needs a second forward, and verl's update has one",
            fix="set gradient: perturbed, or use alpkit's own trainer",
        )
    if config.sigma.init is None:
        raise ConfigError(
            "perturbation.sigma.target_ratio_std is not possible inside verl",
            why="sigma is sought on the policy's own samples before the run, which verl makes later",
            fix="set sigma.init",
        )
    from verl.utils.device import get_device_name, get_vendor
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

    engine = type(
        "NoisyFSDPEngine", (NoisyActor, FSDPEngineWithLMHead), {"noise": config, "seed": seed}
    )
    try:
        # An entry with a vendor goes before verl's own, which has none.
        EngineRegistry.register(
            model_type="language_model",
            backend=["fsdp", "fsdp2"],
            device=os.getenv("VERL_ENGINE_DEVICE") or get_device_name(),
            vendor=os.getenv("VERL_ENGINE_VENDOR") or get_vendor(),
        )(engine)
    except AssertionError as error:
        raise ConfigError(
            "verl has a language-model engine for this device and vendor already",
            why=str(error),
            fix="call perturb once per process, and load one such plug-in only",
        ) from error


class _Rows(Protocol):
    """A TensorDict of rows, as verl hands them over."""

    def __len__(self) -> int: ...

    def __setitem__(self, name: str, values: torch.Tensor) -> None: ...


class NoisyActor:
    """Mixin before verl's FSDPEngineWithLMHead; `noise` and `seed` are set by `perturb`."""

    noise: PerturbationConfig
    seed: int
    perturbation: LayerwisePerturbation | None = None
    _update = 0

    def _build_fsdp_module(self, module: torch.nn.Module) -> object:
        """Attach the noise to the bare model: FSDP wraps or changes the modules that carry the hooks."""
        engine: Any = self
        if not engine.engine_config.forward_only:
            from verl.utils.device import get_device_id

            _refuse(engine, self.noise)
            self.perturbation = LayerwisePerturbation(module, self.noise, device=get_device_id())
        above: Any = super()
        return above._build_fsdp_module(module)

    def _build_optimizer(self, module: torch.nn.Module) -> torch.optim.Optimizer:
        above: Any = super()
        optimizer: torch.optim.Optimizer = above._build_optimizer(module)
        if self.perturbation is not None:
            add_to_optimizer(self.perturbation, optimizer)
        return optimizer

    def train_batch(self, data: _Rows, loss_function: object) -> object:
        """Give every row an id that no other row of this update has, then update as verl does."""
        engine: Any = self
        rank, ranks = engine.get_data_parallel_rank(), engine.get_data_parallel_size()
        data[_SAMPLE] = torch.tensor(sample_ids(len(data), rank=rank, ranks=ranks))
        above: Any = super()
        outputs = above.train_batch(data, loss_function)
        self._update += 1
        if self.perturbation is not None:
            metrics = self.perturbation.metrics()
            outputs["metrics"] |= {
                f"alpkit/{name}": [metrics.get(name, math.nan)] for name in _LOGGED
            }
        return outputs

    def forward_step(
        self, micro_batch: object, loss_function: object, forward_only: bool
    ) -> object:
        """Run verl's forward and loss, under noise where a backward follows.

        A step is a rollout: verl advances its learning-rate schedule once for each, and saves it, so the
        key goes on where a resumed run does.
        """
        engine: Any = self
        above: Any = super()
        if forward_only or self.perturbation is None:
            return above.forward_step(micro_batch, loss_function, forward_only)
        step = engine.lr_scheduler.last_epoch + 1
        self.perturbation.at_step(step)
        sample, mask = self._tokens(micro_batch)
        key = (self.seed, step, self._update)
        with self.perturbation.active(key, sample=sample, mask=mask):
            return above.forward_step(micro_batch, loss_function, forward_only)

    def lr_scheduler_step(self) -> object:
        above: Any = super()
        self._update = 0
        return above.lr_scheduler_step()

    def optimizer_step(self) -> float:
        """Average log sigma's gradient over ranks and clip it with the weights, under one norm.

        Returns the norm before clipping. As in verl, an update with a non-finite gradient is skipped.
        """
        engine: Any = self
        above: Any = super()
        if self.perturbation is None or not self.perturbation.parameters():
            return float(above.optimizer_step())
        average_gradient(self.perturbation, engine.get_data_parallel_group())
        ceiling = engine.optimizer_config.clip_grad
        weights, sigma = _norm_of_weights(engine.module), gradient_norm(self.perturbation)
        total = math.hypot(weights, sigma)
        if not math.isfinite(total):
            engine.optimizer_zero_grad()
            return total
        for parameter in self.perturbation.parameters():
            if parameter.grad is not None:
                parameter.grad *= min(1.0, ceiling / (total + 1e-6))
        # verl clips the weights by their own norm: lower the ceiling by their share of the common one.
        engine.optimizer_config.clip_grad = ceiling * (weights / total if total > 0 else 1.0)
        try:
            above.optimizer_step()
        finally:
            engine.optimizer_config.clip_grad = ceiling
        return total

    def save_checkpoint(self, local_path: str, *args: object, **kwargs: object) -> None:
        above: Any = super()
        above.save_checkpoint(local_path, *args, **kwargs)
        if self.perturbation is not None and local_path is not None:
            save_log_sigma(self.perturbation, self._sigma_file(local_path))

    def load_checkpoint(self, local_path: str, *args: object, **kwargs: object) -> None:
        above: Any = super()
        above.load_checkpoint(local_path, *args, **kwargs)
        if self.perturbation is not None and local_path is not None:
            load_log_sigma(self.perturbation, self._sigma_file(local_path))

    def _sigma_file(self, folder: str) -> Path:
        """One file a rank, as verl does: the folder need not be shared."""
        engine: Any = self
        return Path(folder) / f"log_sigma_rank_{engine.rank}.safetensors"

    def _tokens(self, micro_batch: Any) -> _Tokens:
        """Lay the rows' ids out as the forward will see the tokens: packed, or padded on the right."""
        from verl.utils.tensordict_utils import get_non_tensor_data

        engine: Any = self
        ids = micro_batch[_SAMPLE]
        lengths = micro_batch["input_ids"].offsets().diff().to(ids.device)
        if not get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True):
            places = torch.arange(int(lengths.max()), device=ids.device)
            return _Tokens(ids, places < lengths[:, None])
        packed = ids.repeat_interleave(lengths)
        padding = engine._get_packed_pad_size(len(packed))
        real = torch.ones(len(packed), dtype=torch.bool, device=ids.device)
        return _Tokens(
            torch.nn.functional.pad(packed, (0, padding), value=-1)[None],
            torch.nn.functional.pad(real, (0, padding))[None],
        )


def _norm_of_weights(module: Any) -> float:
    """Norm of the weights' gradients over all shards; a ceiling of infinity clips nothing."""
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor
    from verl.utils.fsdp_utils import fsdp2_clip_grad_norm_

    if isinstance(module, FullyShardedDataParallel):
        norm: Tensor = module.clip_grad_norm_(math.inf)
    else:
        norm = fsdp2_clip_grad_norm_(module.parameters(), max_norm=math.inf)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _refuse(engine: Any, noise: PerturbationConfig) -> None:
    """Refuse settings of verl under which the noise would be another, or none."""
    if engine.ulysses_sequence_parallel_size > 1:
        raise ConfigError(
            "ulysses_sequence_parallel_size above 1 cannot be combined with noise",
            where="actor_rollout_ref.actor",
            why="noise is drawn per sample in token order, and each rank sees a slice of the tokens",
            fix="set ulysses_sequence_parallel_size: 1",
        )
    if noise.site == "logits" and engine.model_config.use_fused_kernels:
        raise ConfigError(
            "perturbation.site: logits would never act with use_fused_kernels",
            where="actor_rollout_ref.model",
            why="the fused head reads the LM head's weights and never calls the module",
            fix="set use_fused_kernels: false or another site",
        )
    precision = (engine.engine_config.mixed_precision or {}).get("param_dtype", "bf16")
    if noise.sigma.learnable and str(precision) in ("fp16", "float16", "half", "16"):
        raise ConfigError(
            f"a learned sigma cannot be combined with param_dtype: {precision}",
            where="actor_rollout_ref.actor.fsdp_config.mixed_precision",
            why="its gradient would be clipped under the loss scale",
            fix="set param_dtype: bf16 or fp32, or sigma.learnable: false",
        )
