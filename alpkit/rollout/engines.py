"""Start the sampler that a rollout section describes."""

from typing import assert_never

from alpkit.config.hardware import HardwareConfig
from alpkit.config.run import RolloutConfig
from alpkit.config.tasks import PLAIN_PROMPT, PromptConfig
from alpkit.policy.loading import Policy, pad_id, stop_ids, stop_texts
from alpkit.rollout import Sampler
from alpkit.rollout.stopping import StopText


def build_sampler(
    policy: Policy,
    config: RolloutConfig,
    *,
    seed: int,
    hardware: HardwareConfig,
    prompt: PromptConfig = PLAIN_PROMPT,
) -> Sampler:
    """Start the configured engine on `policy`'s weights; `prompt` says what ends a response."""
    stops = stop_ids(policy.model, policy.tokenizer, prompt.stop)
    text = StopText.build(policy.tokenizer, stop_texts(policy.tokenizer, prompt.stop))
    match config.engine:
        case "hf":
            from alpkit.rollout.hf import HfSampler

            return HfSampler(
                policy.model,
                config,
                stop_ids=stops,
                pad_id=pad_id(policy.tokenizer),
                batch=hardware.rollout_batch,
                stop_text=text,
            )
        case "vllm":
            from alpkit.rollout.vllm import VllmSampler

            return VllmSampler(
                policy.source,
                config,
                stop_ids=stops,
                seed=seed,
                hardware=hardware,
                stop_text=text,
            )
        case _:
            assert_never(config.engine)
