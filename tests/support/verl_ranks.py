"""Update verl's own FSDP actor under noise on every rank, and write what came out beside a plain computation.

`torchrun --nproc_per_node 2 tests/support/verl_ranks.py OUT`. The noise reaches verl as a user's would: by
`model.external_lib`. One JSON file per rank.
"""

import json
import math
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import verl_cpu  # noqa: F401  (before verl)

# isort: split
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import ActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.config.actor import PolicyLossConfig
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import left_right_2_no_padding

from alpkit.config import ObjectiveConfig, PerturbationConfig
from alpkit.integrations import verl_noise
from alpkit.objective import Normalizer, policy_loss
from alpkit.policy.perturbation import LayerwisePerturbation

# Nothing leaves the CPU, and verl would spell the way back "cpu:cpu".
transformer_impl.load_fsdp_model_to_gpu = lambda *_: None

LIBRARY = """
from alpkit.config import ObjectiveConfig, PerturbationConfig
from alpkit.integrations.verl import register
from alpkit.integrations.verl_noise import perturb

register("alpkit", ObjectiveConfig.model_validate({objective!r}))
perturb(PerturbationConfig.model_validate({noise!r}), seed=7)
"""
OBJECTIVE = {
    "ratio": {"denominator": "rollout"},
    "surrogate": {"epsilon_low": 0.9, "epsilon_high": 9.0},
}
NOISE = {"sigma": {"init": 0.05, "lr": 0.05, "weight_decay": 0.1}, "schedule": {"warmup": 2}}
# Strategy, activation checkpointing, rows packed into one.
SETTINGS = (("fsdp2", False, False), ("fsdp2", True, True), ("fsdp", True, False))
LR, CLIP = 1e-3, 0.1
PROMPTS, RESPONSES = (3, 3, 2, 5), (4, 3, 3, 2)
WIDTH = max(p + r for p, r in zip(PROMPTS, RESPONSES, strict=True))


def rows(rank, step):
    """Four ragged responses of one rank and rollout: ids, prompt length, mu, advantage."""
    draw = torch.Generator().manual_seed(100 * step + rank)
    return [
        SimpleNamespace(
            ids=torch.randint(3, 20, (p + r,), generator=draw),
            prompt=p,
            mu=-3 - torch.rand(r, generator=draw),
            advantage=float(torch.randn((), generator=draw)),
        )
        for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]


def rollout(rank, step):
    """`rows` as verl's trainer hands them to its actor: two updates, micro-batches of one row."""
    prompts, responses = torch.zeros(4, max(PROMPTS)), torch.zeros(4, max(RESPONSES))
    real_prompt, mask, mu, advantage = (torch.zeros_like(x) for x in (prompts, *[responses] * 3))
    for i, row in enumerate(rows(rank, step)):
        n = len(row.mu)
        prompts[i, -row.prompt :], real_prompt[i, -row.prompt :] = row.ids[: row.prompt].float(), 1
        responses[i, :n], mask[i, :n] = row.ids[row.prompt :].float(), 1
        mu[i, :n], advantage[i, :n] = row.mu, row.advantage
    attention = torch.cat([real_prompt, mask], dim=1).long()
    padded = tu.get_tensordict(
        {
            "prompts": prompts.long(),
            "responses": responses.long(),
            "input_ids": torch.cat([prompts, responses], dim=1).long(),
            "attention_mask": attention,
            "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
            "response_mask": mask.long(),
            "old_log_probs": mu,
            "advantages": advantage,
        },
        non_tensor_dict={
            "temperature": 1.0, "global_batch_size": 4, "mini_batch_size": 4, "epochs": 1, "seed": 1,
            "dataloader_kwargs": {"shuffle": False}, "compute_loss": True, "calculate_entropy": False,
        },
    )  # fmt: skip
    return left_right_2_no_padding(padded)


def worker(folder, strategy, checkpointing, packed):
    made = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=HFModelConfig(
                path=str(folder / "model"),
                load_tokenizer=False,
                use_remove_padding=packed,
                enable_gradient_checkpointing=checkpointing,
                external_lib="my_alp",
                override_config={"attn_implementation": "sdpa"},
            ),
            engine_config=FSDPEngineConfig(
                strategy=strategy,
                use_torch_compile=False,
                mixed_precision={"param_dtype": "fp32"},
                use_dynamic_bsz=packed,
                micro_batch_size_per_gpu=1,
                infer_micro_batch_size_per_gpu=2,
                max_token_len_per_gpu=WIDTH + 5,
                infer_max_token_len_per_gpu=2 * WIDTH,
                pad_to_length=packed,
                pad_to_length_bucket=8,
            ),
            optimizer_config=FSDPOptimizerConfig(
                lr=LR, weight_decay=0.0, clip_grad=CLIP, total_training_steps=10
            ),
            checkpoint_config=CheckpointConfig(),
            profiler_config=None,
        )
    )
    made.reset()
    actor = ActorConfig(
        strategy=strategy,
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=PolicyLossConfig(loss_mode="alpkit"),
    )
    made.set_loss_fn(partial(ppo_loss, config=actor))
    return made


def weights(made):
    return {name: value.clone() for name, value in made.engine.get_per_tensor_param()[0]}


def logps(made, rank):
    """log pi_old as verl's trainer asks for it."""
    data = rollout(rank, 1)
    tu.assign_non_tensor(data, compute_loss=False)
    return torch.cat([x for x in tu.get(made.infer_batch(data), "log_probs").unbind()])


def plain(model, noise, batch):
    """Log-probs of the tokens of right-padded rows, and the mask of the response's."""
    ids, real, response = (torch.zeros(len(batch), WIDTH, dtype=torch.long) for _ in range(3))
    mu, advantage = torch.zeros(len(batch), WIDTH), torch.zeros(len(batch))
    for i, row in enumerate(batch):
        n = len(row.ids)
        ids[i, :n], real[i, :n], response[i, row.prompt : n] = row.ids, 1, 1
        mu[i, row.prompt : n], advantage[i] = row.mu, row.advantage
    with noise(real):
        logits = model(ids, attention_mask=real, use_cache=False).logits
    logp = logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return logp, mu[:, 1:], response[:, 1:].bool(), advantage


def reference(folder, steps):
    """The same updates in one process: the whole batch at once, alpkit's noise, one AdamW, one clip."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    perturbation = LayerwisePerturbation(model, PerturbationConfig.model_validate(NOISE))
    sigma = NOISE["sigma"]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.parameters()), "lr": LR, "weight_decay": 0.0},
            {"params": [perturbation.log_sigma], "lr": sigma["lr"], "weight_decay": 0.1},
        ]
    )
    norms = []
    for step in range(1, steps + 1):
        perturbation.at_step(step)
        for update in range(2):
            both = [rows(rank, step)[2 * update : 2 * update + 2] for rank in range(2)]
            batch = [row for pair in zip(*both, strict=True) for row in pair]  # ids 0, 1, 2, 3
            noise = partial(perturbation.active, (7, step, update), range(4))
            logp, mu, mask, advantage = plain(model, noise, batch)
            policy_loss(
                logp=logp,
                logp_old=None,
                logp_rollout=mu,
                mask=mask,
                advantage=advantage,
                config=ObjectiveConfig.model_validate(OBJECTIVE),
                normalizer=Normalizer(mask.sum().float()),
            ).loss.backward()
            everything = [p for group in optimizer.param_groups for p in group["params"]]
            norms.append(float(torch.nn.utils.clip_grad_norm_(everything, CLIP)))
            optimizer.step()
            optimizer.zero_grad()
    return dict(model.named_parameters()), perturbation.log_sigma.detach(), norms


def difference(ours, theirs):
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


def case(folder, *setting):
    rank = dist.get_rank()
    made = worker(folder, *setting)
    clean = logps(made, rank)
    average, own = verl_noise.average_gradient, []

    def recording(perturbation, group):
        own.append(perturbation.log_sigma.grad.tolist())
        average(perturbation, group)

    verl_noise.average_gradient = recording
    saved = folder / "-".join(map(str, setting))
    metrics = []
    for step in (1, 2, 3):
        if step == 3:
            made.save_checkpoint(str(saved))
        metrics.append(tu.get(made.train_mini_batch(rollout(rank, step)), "metrics"))
    verl_noise.average_gradient = average
    after, sigma = weights(made), made.engine.perturbation.log_sigma.detach().clone()
    expected, expected_sigma, norms = reference(folder, 3)
    again = worker(folder, *setting)
    again.load_checkpoint(str(saved))
    again.train_mini_batch(rollout(rank, 3))
    fresh = worker(folder, *setting)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    with torch.no_grad():
        logp, _, mask, _ = plain(model, lambda _: torch.no_grad(), rows(rank, 1))
    fresh_clean = logps(fresh, rank)
    return {
        "engine": type(made.engine).__name__,
        "log_sigma": sigma.tolist(),
        "own": own,
        "norms": [value for line in metrics for value in line["grad_norm"]],
        "expected_norms": norms,
        "sigma_error": float((sigma - expected_sigma).abs().max()),
        "weight_error": difference(after, expected),
        "weight_moved": difference(after, dict(model.named_parameters())),
        "resumed_error": difference(weights(again), after),
        "resumed_sigma": again.engine.perturbation.log_sigma.tolist(),
        "infer_repeats": bool(torch.equal(clean, fresh_clean)),
        "infer_error": float((response(clean, rank) - logp[mask]).abs().max()),
        "logged": sorted(key for key in metrics[0] if "sigma" in key),
    }


def response(flat, rank):
    """Of log-probs of all tokens (each for the next one), those of the response's."""
    parts = flat.split([len(row.ids) for row in rows(rank, 1)])
    return torch.cat([p[row.prompt - 1 : -1] for p, row in zip(parts, rows(rank, 1), strict=True)])


def main(folder):
    dist.init_process_group("gloo")
    sys.path.insert(0, str(folder))
    if dist.get_rank() == 0:
        (folder / "my_alp.py").write_text(LIBRARY.format(objective=OBJECTIVE, noise=NOISE))
        torch.manual_seed(0)
        shape = {"vocab_size": 20, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
                 "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
                 "tie_word_embeddings": False, "initializer_range": 0.3, "pad_token_id": 0,
                 "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
        config = AutoConfig.for_model("qwen2", **shape)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    dist.barrier()
    cases = {" ".join(map(str, setting)): case(folder, *setting) for setting in SETTINGS}
    assert math.isfinite(sum(value["sigma_error"] for value in cases.values()))
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(cases))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
