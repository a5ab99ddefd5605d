"""Write alpkit's run folder from inside a stock TRL GRPOTrainer, so that `analyze` and `replay` read its run.

    from alpkit.integrations.record import record
    record(trainer, "runs/my-trl/seed-0")        # runs/<grid>/<cell>
    trainer.train()                              # then: alpkit analyze runs/my-trl

A step is one generation and the optimizer steps made of it. Nothing is computed twice: log-probs, entropy
and advantages are those of TRL's own loss. mu is vLLM's log-prob; where TRL generates by itself it is
pi_old, as TRL takes it to be, and the grid's notes say so. Not here: TRL's settings in our words
(`alpkit.integrations.trl_settings`), the files (`alpkit.integrations.foreign_run`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import torch
from transformers import TrainerCallback

from alpkit.config.objective import ObjectiveConfig
from alpkit.integrations.foreign_run import ForeignResponse, ForeignRun
from alpkit.integrations.trl_settings import config_of, refuse_unreadable, updates_of
from alpkit.integrations.trl_types import State, Trainer

Made = TypeVar("Made")
Scored = tuple[torch.Tensor, torch.Tensor | None]
"""Log-probs and entropies of a forward, as TRL's own method gives them."""
_OWN_SAMPLER: Final = (
    "TRL generated with the trainer's own model: mu is taken to be pi_old, and ratio/mismatch is 1"
)


def record(
    trainer: Trainer,
    folder: Path | str,
    *,
    arm: str = "trl",
    objective: ObjectiveConfig | None = None,
    every: int = 1,
) -> "Recorder":
    """Add a recorder to `trainer`: metrics of every step and token records of every `every`-th.

    `folder`: runs/<grid>/<cell>; `objective`: what TRL's loss is in alpkit's words (default: read from its
    config). Raises `ConfigError` for a TRL run that has no steps in our sense, `TrackingError` on
    `train()` for a folder that another run wrote.
    """
    recorder = Recorder(trainer, Path(folder), arm=arm, objective=objective, every=every)
    trainer.add_callback(recorder)
    return recorder


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Callback that listens to a trainer's loss and writes the run folder, on rank 0; made by `record`."""

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        *,
        arm: str,
        objective: ObjectiveConfig | None,
        every: int,
    ) -> None:
        refuse_unreadable(trainer)
        self._trainer, self._every = trainer, every
        self._updates = updates_of(trainer)
        self.config = config_of(trainer, objective, every)
        note = "" if trainer.use_vllm else _OWN_SAMPLER
        writes = trainer.accelerator.is_main_process
        self._run = ForeignRun(folder, arm=arm, note=note) if writes else None
        self._rows: list[ForeignResponse] = []
        self._losses: list[float] = []
        self._scored: Scored | None = None
        self._rewards: torch.Tensor | None = None
        for name, listener in (
            ("_calculate_rewards", self._hear_rewards),
            ("_generate_and_score_completions", self._hear_generation),
            ("_get_per_token_logps_and_entropies", self._hear_logps),
            ("_compute_loss", self._hear_loss),
        ):
            setattr(trainer, name, _heard(getattr(trainer, name), listener))

    def on_train_begin(self, args: object, state: State, control: object, **_: object) -> None:
        """Write who the run is; a resumed run takes its unfinished generation back."""
        self.config["train"]["steps"] = max(1, state.max_steps // self._updates)
        if self._run is not None:
            self._run.begin(self.config, done=state.global_step // self._updates)

    def on_step_end(self, args: object, state: State, control: object, **_: object) -> None:
        """Write a step once all optimizer steps of its generation are made."""
        step, open_updates = divmod(state.global_step, self._updates)
        if open_updates:
            return
        rows, losses = _from_all_ranks(self._rows), _from_all_ranks(self._losses)
        self._rows, self._losses = [], []
        if rows and self._run is not None:
            self._run.write(
                step,
                sorted(rows, key=lambda row: row.update),
                loss=sum(losses) / self._trainer.accelerator.num_processes / self._updates,
                record=step % self._every == 0,
            )

    def on_train_end(self, args: object, state: State, control: object, **_: object) -> None:
        if self._run is not None:
            self._run.end(state.global_step // self._updates)

    def _hear_rewards(self, rewards: torch.Tensor, *_: object) -> torch.Tensor:
        weights = self._trainer.reward_weights.to(rewards.device)
        self._rewards = (rewards * weights).nansum(dim=1)
        return rewards

    def _hear_generation(self, made: dict[str, object], *_: object) -> dict[str, object]:
        """Give every row its reward and its policy's version: TRL shuffles and cuts them with the rest."""
        completions = made["completion_ids"]
        assert isinstance(completions, torch.Tensor)
        rows = len(completions)
        if self._rewards is not None:
            first = self._trainer.accelerator.process_index * rows
            made["alpkit_reward"] = self._rewards[first : first + rows]
        made["alpkit_version"] = torch.full((rows,), self._trainer.state.global_step)
        return made

    def _hear_logps(self, scored: Scored, *_: object) -> Scored:
        if torch.is_grad_enabled():
            self._scored = (scored[0].detach(), None if scored[1] is None else scored[1].detach())
        return scored

    def _hear_loss(
        self, loss: torch.Tensor, model: object, inputs: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        if self._trainer.model.training and self._scored is not None:
            self._losses.append(float(loss.detach()))
            self._rows += self._rows_of(inputs, *self._scored)
        self._scored = None
        return loss

    def _rows_of(
        self, inputs: dict[str, torch.Tensor], logp: torch.Tensor, entropy: torch.Tensor | None
    ) -> list[ForeignResponse]:
        """One micro-batch's responses, each with its tokens' numbers, padding removed."""
        real = inputs["completion_mask"].bool()
        sampled = real & inputs.get("tool_mask", real).bool()
        old = inputs.get("old_per_token_logps")
        old = (
            logp if old is None else old
        )  # TRL's own rule: it spares itself pi_old where theta has not moved
        table = {
            "logp_train": logp,
            "logp_old": old,
            "logp_rollout": inputs.get("sampling_per_token_logps", old),
            "entropy": torch.full_like(logp, torch.nan) if entropy is None else entropy,
            "weight": inputs.get("importance_sampling_ratio", torch.ones_like(logp)).expand_as(
                logp
            ),
        }
        micro = self._trainer._step % self._trainer.args.steps_per_generation
        rows = []
        for i, chosen in enumerate(sampled):
            reward = inputs.get("alpkit_reward")
            tokens = {
                name: values[i][chosen].float().cpu().numpy() for name, values in table.items()
            }
            tokens["token"] = inputs["completion_ids"][i][chosen].cpu().numpy()
            tokens["advantage"] = np.full(len(tokens["token"]), float(inputs["advantages"][i]))
            prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()]
            rows.append(
                ForeignResponse(
                    update=micro // self._trainer.args.gradient_accumulation_steps,
                    prompt=None,
                    prompt_ids=tuple(prompt.tolist()),
                    response_ids=tuple(inputs["completion_ids"][i][real[i]].tolist()),
                    response_mask=tuple(chosen[real[i]].int().tolist()),
                    tokens=tokens,
                    reward=None if reward is None else float(reward[i]),
                    policy_version=int(inputs["alpkit_version"][i]),
                )
            )
        return rows


def _heard(method: Callable[..., Made], listener: Callable[..., Made]) -> Callable[..., Made]:
    """Run `method`, and give what `listener` makes of its result and arguments."""

    def run(*args: object, **kwargs: object) -> Made:
        return listener(method(*args, **kwargs), *args)

    return run


def _from_all_ranks(own: list[Made]) -> list[Made]:
    from accelerate.utils import gather_object  # type: ignore[import-untyped]

    gathered: list[Made] = gather_object(own)
    return gathered
