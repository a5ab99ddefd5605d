"""TRL's GRPOTrainer with an alpkit objective and, where wanted, a layerwise perturbation.

    Trainer = grpo_trainer()
    Trainer(model=..., reward_funcs=..., args=GRPOConfig(...), train_dataset=...,
            objective=ObjectiveConfig(...), perturbation=PerturbationConfig(...))

TRL samples, scores and makes the advantages (its `scale_rewards` and `loss_type` decide them and nothing
else here); the objective makes the loss. mu is vLLM's log-prob where TRL has it, else pi_old. Not for
TRL's own corrections at the same time: set vllm_importance_sampling_correction=False and beta=0.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from alpkit.config.objective import ObjectiveConfig
from alpkit.config.perturbation import PerturbationConfig
from alpkit.errors import PrerequisiteError
from alpkit.objective import policy_loss
from alpkit.policy.perturbation import LayerwisePerturbation


class ObjectiveLoss:
    """Mixin before GRPOTrainer: replaces its loss, keeps everything else."""

    def __init__(
        self,
        *args: Any,
        objective: ObjectiveConfig,
        perturbation: PerturbationConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if objective.of_whole_batch or objective.reference_kl.coef > 0:
            raise ValueError(
                "TRL hands the loss one micro-batch and its own reference: use normalizer: keep, "
                "weight.normalize: none and reference_kl.coef: 0"
            )
        if perturbation is not None and perturbation.gradient == "clean":
            raise ValueError(
                "perturbation.gradient: clean needs a second forward, which TRL's loss has not; set it to perturbed"
            )
        super().__init__(*args, **kwargs)
        self.objective = objective
        self.perturbation = None
        self._forwards = 0
        if perturbation is not None:
            trainer: Any = self
            model = trainer.accelerator.unwrap_model(trainer.model)
            self.perturbation = LayerwisePerturbation(model, perturbation)
            if sigmas := self.perturbation.parameters():
                group = {"params": sigmas, "lr": perturbation.sigma.lr, "weight_decay": 0.0}
                trainer.create_optimizer()
                trainer.optimizer.add_param_group(group)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        trainer: Any = self
        prompt, completion = inputs["prompt_ids"], inputs["completion_ids"]
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        noise: Any = nullcontext()
        if self.perturbation is not None and model.training:
            self._forwards += 1
            key = (trainer.args.seed, trainer.state.global_step, self._forwards)
            noise = self.perturbation.active(key, mask=attention.bool())
        tokens = torch.cat([prompt, completion], dim=1)
        with noise:
            logp = trainer._get_per_token_logps_and_entropies(
                model, tokens, attention, completion.shape[1]
            )[0]
        old = inputs.get("old_per_token_logps")
        if old is None and self.perturbation is not None:
            # TRL spares itself pi_old where theta has not moved; the noisy log-probs are not it.
            with torch.no_grad():
                old = trainer._get_per_token_logps_and_entropies(
                    model, tokens, attention, completion.shape[1]
                )[0]
        old = logp.detach() if old is None else old
        share = trainer.current_gradient_accumulation_steps if model.training else 1
        total = self._tokens_of_the_step(inputs) if model.training else None
        output = policy_loss(
            logp=logp,
            logp_old=old,
            logp_rollout=inputs.get("sampling_per_token_logps", old),
            mask=mask,
            advantage=inputs["advantages"],
            config=self.objective,
            normalizer=total,
        )
        mode = "train" if model.training else "eval"
        count = output.receipt["tokens"].clamp(min=1)
        for name in ("clipped_low", "clipped_high", "truncated", "masked", "rejected", "surviving"):
            if name in output.receipt:
                value = (output.receipt[name] / count).item()
                trainer._metrics[mode][f"receipt/{name}"].append(value)
        return output.loss if total is not None else output.loss / share

    def _tokens_of_the_step(self, inputs: dict[str, Tensor]) -> Tensor | None:
        """What token_mean divides by on this process; None where the micro-batch's own count has to do.

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
