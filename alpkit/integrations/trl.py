"""TRL's GRPOTrainer with an alpkit objective and, where wanted, a layerwise perturbation.

    Trainer = grpo_trainer()
    Trainer(model=..., reward_funcs=..., args=GRPOConfig(...), train_dataset=...,
            objective=ObjectiveConfig(...), perturbation=PerturbationConfig(...))

TRL samples, scores and makes the advantages (its `scale_rewards` and `loss_type` decide them and nothing
else here); the objective makes the loss. mu is vLLM's log-prob where TRL has it, else pi_old. In one
process or several (`accelerate launch`, DDP): log sigma is averaged over ranks, clipped with the weights,
saved in every checkpoint and restored from it; its learning rate follows TRL's schedule. TRL's own
corrections do not act at the same time: its weights of vLLM's log-probs are measured and not applied.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from alpkit.config.objective import ObjectiveConfig
from alpkit.config.perturbation import PerturbationConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.integrations.log_sigma import (
    add_to_optimizer,
    average_gradient,
    copy_from_first_rank,
    load_log_sigma,
    sample_ids,
    save_log_sigma,
)
from alpkit.objective import LossOutput, policy_loss
from alpkit.policy.perturbation import LayerwisePerturbation

SIGMA_FILE: Final = "log_sigma.safetensors"
"""Name of log sigma's file inside TRL's `checkpoint-N`."""

_IGNORED: Final = {
    "beta": 0.0, "delta": None, "off_policy_mask_threshold": None, "top_entropy_quantile": 1.0,
    "entropy_coef": 0.0, "use_adaptive_entropy": False,
}  # fmt: skip
"""Parts of TRL's own loss, with the values at which they do nothing."""

_RECEIPT = ("clipped_low", "clipped_high", "truncated", "masked", "rejected", "surviving")


class _WithSigma:
    """The parameters that the trainer clips: the model's and log sigma, under one norm."""

    def __init__(self, model: nn.Module, sigma: Iterable[nn.Parameter]) -> None:
        self._model, self._sigma = model, list(sigma)

    def parameters(self) -> Iterator[nn.Parameter]:
        return chain(self._model.parameters(), self._sigma)


class ObjectiveLoss:
    """Mixin before GRPOTrainer: replaces its loss, takes care of log sigma, keeps everything else."""

    def __init__(
        self,
        *args: Any,
        objective: ObjectiveConfig,
        perturbation: PerturbationConfig | None = None,
        **kwargs: Any,
    ) -> None:
        _refuse(objective, perturbation)
        self.perturbation: LayerwisePerturbation | None = None
        super().__init__(*args, **kwargs)
        self.objective = objective
        self._micro_batch = 0
        self._step_taken = False
        trainer: Any = self
        _refuse_trls_loss(trainer.args)
        if perturbation is not None:
            _refuse_wrapping(trainer, perturbation)
            model = trainer.accelerator.unwrap_model(trainer.model)
            self.perturbation = LayerwisePerturbation(
                model, perturbation, device=trainer.accelerator.device
            )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make TRL's optimizer, and add log sigma to it as a parameter group of its own."""
        trainer: Any = super()
        optimizer: torch.optim.Optimizer = trainer.create_optimizer(model)
        if self.perturbation is not None:
            copy_from_first_rank(self.perturbation)
            add_to_optimizer(self.perturbation, optimizer)
        return optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run TRL's step on one micro-batch, and drop log sigma's gradient where an optimizer step begins anew.

        TRL clears the gradients of its model alone, and log sigma is no parameter of the model.
        """
        trainer: Any = super()
        if self._step_taken:
            self._micro_batch = 0
            for parameter in self._sigma():
                parameter.grad = None
        loss: Tensor = trainer.training_step(*args, **kwargs)
        self._micro_batch += 1
        own: Any = self
        self._step_taken = bool(own.accelerator.sync_gradients)
        if self._step_taken and self.perturbation is not None:
            average_gradient(self.perturbation)
            for name, value in self.perturbation.metrics().items():
                own._metrics["train"][name].append(value)
        return loss

    def _sigma(self) -> list[nn.Parameter]:
        return [] if self.perturbation is None else self.perturbation.parameters()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        trainer: Any = super()
        norm: Tensor = trainer._clip_grad_norm(_WithSigma(model, self._sigma()))
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        trainer: Any = super()
        return trainer._get_grad_norm(_WithSigma(model, self._sigma()), grad_norm=grad_norm)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = super()
        trainer._save_checkpoint(model, trial)
        own: Any = self
        if self.perturbation is not None and own.args.should_save:
            folder = Path(own._get_output_dir(trial=trial)) / f"checkpoint-{own.state.global_step}"
            save_log_sigma(self.perturbation, folder / SIGMA_FILE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        trainer: Any = super()
        trainer._load_optimizer_and_scheduler(checkpoint)
        if self.perturbation is not None and checkpoint is not None:
            load_log_sigma(self.perturbation, Path(checkpoint) / SIGMA_FILE)

    def _load_best_model(self) -> None:
        trainer: Any = super()
        trainer._load_best_model()
        own: Any = self
        if self.perturbation is not None:
            load_log_sigma(self.perturbation, Path(own.state.best_model_checkpoint) / SIGMA_FILE)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        training = bool(model.training)
        noisy = self.perturbation if training else None
        old = inputs.get("old_per_token_logps")
        if old is None and noisy is not None:
            # TRL spares itself pi_old where theta has not moved; the noisy log-probs are not it.
            with torch.no_grad():
                old = self._logps(model, inputs)
        draws = 1 if noisy is None else noisy.config.draws
        outputs = [self._loss(model, inputs, old, draw) for draw in range(draws)]
        self._note_receipt("train" if training else "eval", outputs)
        return torch.stack([output.loss for output in outputs]).mean()

    def _loss(
        self, model: Any, inputs: dict[str, Tensor], old: Tensor | None, draw: int
    ) -> LossOutput:
        """Loss of one draw of the noise; TRL's cut into micro-batches and ranks leaves the sum as it is."""
        trainer: Any = self
        with self._noise(model, inputs, draw):
            logp = self._logps(model, inputs)
        old = logp.detach() if old is None else old
        total = self._tokens_of_the_step(inputs) if model.training else None
        output = policy_loss(
            logp=logp,
            logp_old=old,
            logp_rollout=inputs.get("sampling_per_token_logps", old),
            mask=inputs["completion_mask"] * inputs.get("tool_mask", 1),
            advantage=inputs["advantages"],
            config=self.objective,
            normalizer=total,
        )
        if model.training and total is None:
            share = trainer.current_gradient_accumulation_steps
            return output._replace(loss=output.loss / share)
        return output

    def _logps(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Log-probs of the completion's tokens, by TRL's own forward."""
        trainer: Any = self
        completion = inputs["completion_ids"]
        tokens = torch.cat([inputs["prompt_ids"], completion], dim=1)
        logps: Tensor = trainer._get_per_token_logps_and_entropies(
            model, tokens, _attention(inputs), completion.shape[1]
        )[0]
        return logps

    def _noise(
        self, model: Any, inputs: dict[str, Tensor], draw: int
    ) -> AbstractContextManager[None]:
        """Open the noise for a training forward: keyed by the step, a row's id unique over ranks."""
        if self.perturbation is None or not model.training:
            return nullcontext()
        trainer: Any = self
        step = trainer.state.global_step + 1
        self.perturbation.at_step(step)
        sample = sample_ids(
            len(inputs["completion_ids"]),
            rank=trainer.accelerator.process_index,
            ranks=trainer.accelerator.num_processes,
            micro_batch=self._micro_batch,
        )
        return self.perturbation.active(
            (trainer.args.seed, step), sample=sample, mask=_attention(inputs).bool(), draw=draw
        )

    def _note_receipt(self, mode: str, outputs: list[LossOutput]) -> None:
        trainer: Any = self
        for output in outputs:
            count = output.receipt["tokens"].clamp(min=1)
            for name in _RECEIPT:
                if name in output.receipt:
                    value = (output.receipt[name] / count).item()
                    trainer._metrics[mode][f"receipt/{name}"].append(value)

    def _tokens_of_the_step(self, inputs: dict[str, Tensor]) -> Tensor | None:
        """Give token_mean's divisor on this process; None where the micro-batch's own count has to do.

        TRL counts the tokens of everything generated at once: `steps_per_generation` micro-batches, of
        which one optimizer step takes only as many as it accumulates.
        """
        trainer: Any = self
        generated = inputs.get("num_items_in_batch")
        if generated is None or self.objective.aggregate != "token_mean":
            return None
        share: float = (
            trainer.current_gradient_accumulation_steps / trainer.args.steps_per_generation
        )
        processes: int = trainer.accelerator.num_processes
        return generated.clamp(min=1.0) / processes * share


def grpo_trainer() -> type:
    """GRPOTrainer with `objective` and `perturbation` arguments; raises `PrerequisiteError` without TRL."""
    try:
        from trl import GRPOTrainer
    except ImportError as error:
        raise PrerequisiteError(
            "trl cannot be imported",
            why=str(error),
            fix="install it beside transformers 5.23: pip install 'trl>=1.16'",
        ) from error
    return type("ObjectiveGRPOTrainer", (ObjectiveLoss, GRPOTrainer), {})


def _attention(inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)


def _refuse(objective: ObjectiveConfig, perturbation: PerturbationConfig | None) -> None:
    """Refuse what TRL cannot feed, before any model is touched."""
    if objective.of_whole_batch or objective.reference_kl.coef > 0 or objective.entropy_bonus > 0:
        raise ConfigError(
            "this objective cannot run inside TRL",
            where="objective",
            why="TRL hands the loss one micro-batch, its own reference and no entropy that has a gradient",
            fix="use normalizer: keep, weight.normalize: none, reference_kl.coef: 0 and entropy_bonus: 0",
        )
    if objective.centering.kind != "none":
        raise ConfigError(
            "objective.centering cannot run inside TRL",
            where="objective.centering",
            why="TRL hands the loss no log-probs of the sampler's likeliest tokens",
            fix="set centering.kind: none, or use alpkit's own trainer",
        )
    if perturbation is not None and perturbation.gradient == "clean":
        raise ConfigError(
            "perturbation.gradient: clean cannot run inside TRL",
            where="perturbation",
            why="it needs a second forward, and TRL's loss has one",
            fix="use gradient: perturbed, or alpkit's own trainer",
        )
    if perturbation is not None and perturbation.site == "logits":
        raise ConfigError(
            "perturbation.site: logits would never act inside TRL",
            where="perturbation",
            why="TRL's fused head reads the LM head's weights and never calls the module",
            fix="use site: final_hidden, or alpkit's own trainer",
        )


def _refuse_trls_loss(args: object) -> None:
    """Refuse parts of TRL's loss, which the objective replaces whole."""
    for name, neutral in _IGNORED.items():
        if (value := getattr(args, name, neutral)) != neutral:
            raise ConfigError(
                f"{name}: {value} would never act",
                where="GRPOConfig",
                why="it is part of TRL's loss, and the objective takes that loss's place",
                fix=f"set {name}={neutral} and say it in the objective, or train with TRL alone",
            )


def _refuse_wrapping(trainer: Any, perturbation: PerturbationConfig) -> None:
    """Refuse ways of training in which log sigma would be skipped in silence."""
    if not perturbation.sigma.learnable or perturbation.attaches_nothing:
        return
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            "a learned sigma needs plain data parallelism (DDP) inside TRL",
            where="perturbation.sigma",
            why="FSDP and DeepSpeed clip and save the model's own parameters only",
            fix="launch without FSDP and DeepSpeed, or set sigma.learnable: false",
        )
    if trainer.lr_scheduler is not None:
        raise ConfigError(
            "optimizers: a learning-rate schedule of your own does not know log sigma's group",
            where="optimizers",
            why="it was made for the groups that the optimizer had before",
            fix="pass optimizers=(optimizer, None), or set sigma.learnable: false",
        )
