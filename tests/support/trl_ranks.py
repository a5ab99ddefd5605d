"""Train with the TRL plug-in on every rank of `accelerate launch`, resume, and write what each rank ended with.

`accelerate launch --cpu --num_processes 2 tests/support/trl_ranks.py OUT`: five steps with a checkpoint
after the third, then a new trainer from that checkpoint; one with two draws; one without noise, recorded.
One JSON file per rank.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from trl import GRPOConfig

from alpkit.config import ObjectiveConfig, PerturbationConfig
from alpkit.integrations import trl as plug_in
from alpkit.integrations.record import record
from alpkit.policy.loading import load_policy

SIGMA = {"init": 0.05, "lr": 0.05, "weight_decay": 0.5}
OBJECTIVE = {"ratio": {"denominator": "rollout"}, "aggregate": "token_mean"}


def reward(completions, **_):
    return [float(sum(map(ord, text)) % 7) for text in completions]


def make(out, noise=None):
    torch.manual_seed(0)
    policy = load_policy("builtin:tiny-addition")
    return plug_in.grpo_trainer()(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        args=GRPOConfig(
            output_dir=str(out), per_device_train_batch_size=2, num_generations=4, max_steps=5,
            max_completion_length=5, learning_rate=1e-3, beta=0.0, use_cpu=True, report_to=[], bf16=False,
            gradient_checkpointing=False, save_strategy="steps", save_steps=3, logging_steps=1,
            gradient_accumulation_steps=2, max_grad_norm=0.05, disable_tqdm=True, seed=3,
        ),
        train_dataset=Dataset.from_dict({"prompt": [f"{i}+{i + 3}=" for i in range(64)]}),
        objective=ObjectiveConfig.model_validate(OBJECTIVE),
        perturbation=PerturbationConfig(sigma=SIGMA, schedule={"warmup": 4}, **noise)
        if noise is not None
        else None,
    )  # fmt: skip


def digest(model):
    state = hashlib.blake2b()
    for value in model.parameters():
        state.update(value.detach().numpy().tobytes())
    return state.hexdigest()


def noisy_logps(trainer):
    """Log-probs of one fixed batch under this rank's noise, and without."""
    ids = torch.arange(3, 9).repeat(2, 1)
    inputs = {
        "prompt_ids": ids[:, :3],
        "prompt_mask": torch.ones(2, 3, dtype=torch.long),
        "completion_ids": ids[:, 3:],
        "completion_mask": torch.ones(2, 3, dtype=torch.long),
    }
    model = trainer.accelerator.unwrap_model(trainer.model).train()
    with torch.no_grad():
        with trainer._noise(model, inputs, 0):
            noisy = trainer._logps(model, inputs)
        return noisy.tolist(), trainer._logps(model, inputs).tolist()


def finished(trainer):
    noisy, clean = noisy_logps(trainer)
    return {
        "log_sigma": trainer.perturbation.log_sigma.tolist(),
        "model": digest(trainer.model),
        "noisy": noisy,
        "clean": clean,
        "grad_norm": [line["grad_norm"] for line in trainer.state.log_history if "loss" in line],
    }


def main(out):
    average, own = plug_in.average_gradient, []

    def recording(perturbation):
        own.append(perturbation.log_sigma.grad.tolist())
        average(perturbation)
        reduced.append(perturbation.log_sigma.grad.tolist())

    reduced: list[list[float]] = []
    plug_in.average_gradient = recording
    whole = make(out / "whole", {})
    whole.train()
    results = {"whole": finished(whole), "own": list(own), "reduced": list(reduced)}
    torch.manual_seed(99 + whole.accelerator.process_index)  # nothing may hang on what is left over
    again = make(out / "again", {})
    again.train(resume_from_checkpoint=str(out / "whole" / "checkpoint-3"))
    results |= {"again": finished(again)}
    two = make(out / "two", {"draws": 2})
    two.train()
    results |= {"two": finished(two)}
    plain = make(out / "plain")
    record(plain, out / "runs" / "ranks" / "plain")
    plain.train()
    rank = whole.accelerator.process_index
    (out / f"rank{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
