"""Make the installed verl run on CPU ranks: ray stubbed, TRL's value heads stubbed, and a platform of ours.

verl knows CUDA, ROCm and NPU, and takes others through its platform registry. Import before verl.
"""

import sys
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import MagicMock

RAY = (
    "ray", "ray.data", "ray.util", "ray.util.placement_group", "ray.util.scheduling_strategies",
    "ray.util.collective", "ray.experimental", "ray.experimental.state", "ray.experimental.state.api",
    "ray.actor",
)  # fmt: skip
for name in (*RAY, "trl.experimental.ppo"):
    sys.modules[name] = MagicMock()

import torch  # noqa: E402
from torch.distributed.fsdp import _init_utils  # noqa: E402
from verl.plugin.platform.platform_base import PlatformBase  # noqa: E402
from verl.plugin.platform.platform_manager import set_platform  # noqa: E402


def _nothing(*_, **__):
    return 0


class CPU(PlatformBase):
    """No accelerator: every measure of one is 0."""

    device_name = "cpu"
    vendor_name = "none"
    device_module = SimpleNamespace(
        get_device_name=lambda *_: "cpu",
        mem_get_info=lambda *_: (0, 1),
        get_rng_state=torch.get_rng_state,
        set_rng_state=torch.set_rng_state,
        is_available=lambda: False,
        **dict.fromkeys(
            ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved",
             "set_device", "synchronize", "empty_cache"), _nothing,
        ),
    )  # fmt: skip

    def is_available(self):
        return True

    def current_device(self):
        return torch.device("cpu")

    def device_count(self):
        return 1

    def manual_seed(self, seed):
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg):
        yield

    def ray_resource_name(self):
        return "CPU"

    def ray_noset_envvars(self):
        return []

    def is_ipc_supported(self):
        return False

    set_device = synchronize = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing


set_platform(CPU())
# FSDP1 refuses to broadcast the weights of rank 0 from CPU memory, which NCCL cannot and gloo can.
_init_utils._check_module_states_for_sync_module_states = _nothing
