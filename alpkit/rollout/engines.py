"""From a rollout section to a running sampler."""

from typing import assert_never

from alpkit.config.hardware import HardwareConfig
from alpkit.config.run import RolloutConfig
from alpkit.policy.loading import Policy, pad_id, stop_ids
from alpkit.rollout import Sampler


def build_sampler(
    policy: Policy, config: RolloutConfig, *, seed: int, hardware: HardwareConfig
) -> Sampler:
    """Start the configured engine on `policy`'s weights."""
    stops = stop_ids(policy.model, policy.tokenizer)
    match config.engine:
        case "hf":
            from alpkit.rollout.hf import HfSampler

            return HfSampler(
                policy.model,
                config,
                stop_ids=stops,
                pad_id=pad_id(policy.tokenizer),
                batch=hardware.rollout_batch,
            )
        case "vllm":
            from alpkit.rollout.vllm import VllmSampler

            return VllmSampler(policy.source, config, stop_ids=stops, seed=seed, hardware=hardware)
        case _:
            assert_never(config.engine)
