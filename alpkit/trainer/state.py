"""Hold what a running cell needs; start it, save it, resume it."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from alpkit.config import RunConfig
from alpkit.policy import checkpointing
from alpkit.policy.attention import Packing, packing_of
from alpkit.policy.autocast import Precision
from alpkit.policy.loading import (
    Policy,
    encode_prompt,
    load_policy,
    pad_id,
    stop_ids,
    stop_texts,
)
from alpkit.policy.logprobs import verify_head
from alpkit.policy.memory import forward_tokens, keep_freed_memory
from alpkit.policy.messages import Messages
from alpkit.policy.perturbation import LayerwisePerturbation
from alpkit.policy.perturbation.calibration import calibrate_sigma
from alpkit.rollout import Request, Response, Rollout, Sampler, collate
from alpkit.rollout.engines import build_sampler
from alpkit.rollout.hf import generate
from alpkit.rollout.probe import SyncProbe, default_tolerance
from alpkit.rollout.staleness import WeightHistory
from alpkit.rollout.stopping import StopText, before_stop
from alpkit.rollout.turns import Answering
from alpkit.runs.checkpoint import load_newest, save_checkpoint
from alpkit.runs.folder import RunFolder
from alpkit.runs.records import BackgroundWriter
from alpkit.runs.steps import proved_steps, sync_steps
from alpkit.seeds import derive
from alpkit.tasks import Item, ListedTask, Task, eval_items
from alpkit.tasks.environments import load_environment
from alpkit.tasks.evaluation import EvalSet, ask
from alpkit.trainer.loss_scale import LossScale
from alpkit.trainer.measure import ReceiptWatch
from alpkit.trainer.noise_watch import NoiseWatch
from alpkit.trainer.optim import LearningRates, build_optimizer
from alpkit.trainer.prompts import Prompts
from alpkit.trainer.reward_watch import RewardWatch
from alpkit.trainer.speed import Speed, speed_of
from alpkit.trainer.spike_watch import SpikeWatch

_PROBE_ITEMS = 8
PROBE_ITEMS = 64


@dataclass
class TrainerState:
    """Everything that a running cell holds."""

    config: RunConfig
    folder: Path
    policy: Policy
    task: Task
    prompts: Prompts
    sets: tuple[EvalSet, ...]
    sampler: Sampler
    history: WeightHistory
    perturbation: LayerwisePerturbation | None
    packing: Packing | None
    """How forwards are packed; None: the architecture cannot, and they are padded."""
    reference: PreTrainedModel | None
    """The frozen starting policy; None unless the objective pulls towards it."""
    forward_tokens: int | None
    """Tokens to aim at for one forward below the budget; None: as many as the budget allows."""
    optimizer: torch.optim.Optimizer
    rates: LearningRates
    records: BackgroundWriter
    answering: Answering
    """How requests become responses and the texts that are scored."""
    probe: SyncProbe
    receipts: ReceiptWatch
    loss_scale: LossScale
    noise: NoiseWatch
    speed: Speed
    rewards: RewardWatch = field(default_factory=RewardWatch)
    spikes: SpikeWatch = field(default_factory=SpikeWatch)
    tokens: int = 0

    def close(self) -> None:
        """Free sampler and environment, and write what is still to be written."""
        with ExitStack() as stack:
            stack.callback(self.records.close)
            stack.callback(self.answering.close)
            stack.callback(self.sampler.close)

    def evaluates_at(self, step: int) -> bool:
        """Whether some set is due after `step`; the last step always is."""
        last = step == self.config.train.steps
        return last or any(step % entry.every == 0 for entry in self.sets)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a response."""
        return stop_ids(self.policy.model, self.policy.tokenizer, self.config.prompt.stop)

    @property
    def stop_text(self) -> StopText | None:
        """Strings that end a response, where there are any."""
        tokenizer = self.policy.tokenizer
        return StopText.build(tokenizer, stop_texts(tokenizer, self.config.prompt.stop))

    @property
    def precision(self) -> Precision:
        """Precision of every forward of the trained policy."""
        return Precision(self.config.dtype, self.config.head)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.policy.model.parameters()).device
        return device


def set_up(config: RunConfig, folder: Path) -> TrainerState:
    """Load policy, task, sampler and optimizer; nothing is written."""
    keep_freed_memory()
    policy = load_policy(config.model, revision=config.revision)
    policy.model.to("cuda" if torch.cuda.is_available() else "cpu")
    verify_head(policy.model)
    if config.hardware.checkpoint_layers:
        checkpointing.prepare(policy.model)
    perturbation = (
        LayerwisePerturbation(policy.model, config.perturbation) if config.perturbation else None
    )
    asked = ask(config)
    tolerance = config.diagnostics.probe_tolerance or default_tolerance(
        config.rollout, config.dtype
    )
    probe = SyncProbe(
        _probe_sequences(policy, asked.held_out, config),
        pad_id=pad_id(policy.tokenizer),
        temperature=config.rollout.temperature,
        tolerance=tolerance,
        precision=Precision(config.dtype, config.head),
        batch=config.hardware.eval_batch,
    )
    optimizer = build_optimizer(config.train, policy.model, perturbation)
    loss_scale = LossScale(enabled=config.dtype == "float16")
    if perturbation is not None:
        perturbation.loss_scale = loss_scale.value
    return TrainerState(
        config=config,
        folder=folder,
        policy=policy,
        task=asked.task,
        prompts=Prompts(
            asked.task,
            lambda item: encode_prompt(policy.tokenizer, item.prompt, config.prompt),
            seed=config.seed,
            limit=config.rollout.filter.max_prompt,
        ),
        sets=asked.sets,
        sampler=build_sampler(
            policy,
            config.rollout,
            seed=config.seed,
            hardware=config.hardware,
            prompt=config.prompt,
        ),
        history=WeightHistory(policy.model, config.rollout.lag),
        perturbation=perturbation,
        packing=packing_of(policy.model, config.hardware),
        reference=_reference(config, policy) if config.objective.reference_kl.coef > 0 else None,
        forward_tokens=_forward_tokens(config, policy),
        optimizer=optimizer,
        rates=LearningRates(config.train, optimizer),
        records=BackgroundWriter(RunFolder(folder).records),
        answering=answering_of(config, policy),
        probe=probe,
        receipts=ReceiptWatch(config.bounds),
        loss_scale=loss_scale,
        noise=NoiseWatch(config.objective.ratio.denominator),
        speed=speed_of(policy.model, getattr(torch, config.dtype), draws=config.draws),
    )


def match_sigma(state: TrainerState) -> None:
    """Before step 1, find the sigma that `target_ratio_std` asks for; it is the same for every seed.

    The probe batch: one response of the untrained policy, in float32, to each of up to 64 held-out items.
    """
    noise = state.perturbation
    if noise is None or noise.config.sigma.target_ratio_std is None:
        return
    rollout, policy = state.config.rollout, state.policy
    requests = probe_requests(state)
    responses = generate(
        policy.model,
        requests,
        max_tokens=state.config.turn_tokens,
        temperature=rollout.temperature,
        stop_ids=state.stop_ids,
        pad_id=pad_id(policy.tokenizer),
        batch=state.config.hardware.eval_batch,
        stop_text=state.stop_text,
    )
    probe = probe_batch(state, requests, responses)
    calibrate_sigma(
        noise,
        policy.model,
        probe.tokens,
        probe.attention,
        probe.response,
        target=noise.config.sigma.target_ratio_std,
        temperature=rollout.temperature,
    )


def probe_requests(state: TrainerState) -> list[Request]:
    """One request for each of up to 64 held-out items, the same for every seed: sizes of noise are measured on it."""
    prompt = state.config.prompt
    return [
        Request(
            encode_prompt(state.policy.tokenizer, item.prompt, prompt),
            derive("calibration", index),
        )
        for index, item in enumerate(_probe_items(state))
    ]


def _probe_items(state: TrainerState) -> Sequence[Item]:
    """Held-out items, independent of how many are evaluated where the task makes up as many as it is asked for."""
    if isinstance(state.task, ListedTask):
        return state.sets[0].items[:PROBE_ITEMS]
    return eval_items(state.task, PROBE_ITEMS, fewer=True)


def probe_batch(
    state: TrainerState, requests: Sequence[Request], responses: Sequence[Response]
) -> Rollout:
    """Put the responses to `probe_requests` on the trainer's device, a row each."""
    return collate(
        requests,
        responses,
        prompt=list(range(len(requests))),
        pad_id=pad_id(state.policy.tokenizer),
        policy_version=0,
    ).to(state.device)


def save(state: TrainerState, step: int) -> None:
    """Write the checkpoint from which `resume` goes on bit for bit, after all records up to it."""
    state.records.flush()
    sync_steps(state.folder)
    rest = {
        "optimizer": state.optimizer.state_dict(),
        "log_sigma": None if state.perturbation is None else state.perturbation.log_sigma.detach(),
        "history": state.history.state(),
        "spikes": state.spikes.state,
        "receipts": state.receipts.state,
        "loss_scale": state.loss_scale.state(),
        "noise": state.noise.state,
        "unsolved": state.rewards.unsolved,
        "tokens": state.tokens,
    }
    keep = state.config.checkpoint.keep
    folder = RunFolder(state.folder).checkpoints
    save_checkpoint(folder, step, state.policy.model, rest, keep=keep)


def save_for_replay(state: TrainerState, step: int) -> None:
    """Keep the weights and sigmas that `step`'s first update starts from: `alpkit replay` needs them."""
    noise = state.perturbation
    rest: dict[str, object] = {"log_sigma": None if noise is None else noise.log_sigma.detach()}
    save_checkpoint(RunFolder(state.folder).replay, step, state.policy.model, rest, keep=None)


def resume(state: TrainerState) -> int | None:
    """Take up the newest checkpoint that is whole and whose metrics are all there; returns its step, or None."""
    proof = proved_steps(state.folder)
    folder = RunFolder(state.folder).checkpoints
    rest = load_newest(folder, state.policy.model, proved=proof.step, gap=proof.gap)
    if rest is None:
        return None
    state.optimizer.load_state_dict(rest["optimizer"])
    if state.perturbation is not None:
        log_sigma = rest["log_sigma"]
        assert log_sigma is not None, "a perturbed run's checkpoint has its sigma"
        with torch.no_grad():
            state.perturbation.log_sigma.copy_(log_sigma)
    history = rest["history"]
    state.history.restore(history["version"], history["snapshots"])
    state.spikes, state.tokens = SpikeWatch(rest["spikes"]), rest["tokens"]
    state.receipts.restore(rest["receipts"])
    state.loss_scale.restore(rest.get("loss_scale", state.loss_scale.state()))  # older: none
    state.noise.restore(rest.get("noise", {}))  # older checkpoints have neither
    state.rewards.unsolved = rest.get("unsolved", 0)
    if state.perturbation is not None:
        state.perturbation.loss_scale = state.loss_scale.value
    state.sampler.sync(state.history.weights())
    return int(rest["step"])


def decode(policy: Policy, response: Response, stop: Sequence[str] = ()) -> str:
    """Decode a response without special tokens, up to the first stop string, as a task scores it."""
    text = str(policy.tokenizer.decode(response.token_ids, skip_special_tokens=True))
    return before_stop(text, stop)


def answering_of(config: RunConfig, policy: Policy) -> Answering:
    """Build what answers the run's requests; an environment starts what it runs in at its first use."""

    def text_of(response: Response) -> str:
        return decode(policy, response, config.prompt.stop)

    if config.environment is None:
        return Answering(text_of)
    ends = stop_ids(policy.model, policy.tokenizer, config.prompt.stop)
    messages = Messages.of(
        policy.tokenizer, config.prompt, stop_ids=ends, role=config.environment.role
    )
    return Answering(text_of, load_environment(config.environment), messages, config.environment)


def decoder(policy: Policy) -> Callable[[list[int]], str]:
    """Make a decoder of token ids that shows special tokens, for readers of spikes."""
    return lambda ids: str(policy.tokenizer.decode(ids))


def _forward_tokens(config: RunConfig, policy: Policy) -> int | None:
    if config.objective.cut_matters:
        return None  # its numbers are those of the budget
    return forward_tokens(policy.model, config.hardware, autocast=config.dtype != "float32")


def _reference(config: RunConfig, policy: Policy) -> PreTrainedModel:
    """Load a second copy of the starting weights, never the checkpoint's, so that a resumed run has the same."""
    model = load_policy(config.model, revision=config.revision).model
    model.to(next(policy.model.parameters()).device)
    return model.requires_grad_(False)


def _probe_sequences(
    policy: Policy, items: Sequence[Item], config: RunConfig
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Make the probe's sequences: held-out prompts with the untrained policy's greedy responses."""
    tokenizer = policy.tokenizer
    prompts = [
        encode_prompt(tokenizer, item.prompt, config.prompt) for item in items[:_PROBE_ITEMS]
    ]
    responses = generate(
        policy.model,
        [Request(prompt, 0) for prompt in prompts],
        max_tokens=config.turn_tokens,
        temperature=0.0,
        stop_ids=stop_ids(policy.model, tokenizer, config.prompt.stop),
        pad_id=pad_id(tokenizer),
        stop_text=StopText.build(tokenizer, stop_texts(tokenizer, config.prompt.stop)),
    )
    return [(p, r.token_ids) for p, r in zip(prompts, responses, strict=True)]
