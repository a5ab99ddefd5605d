"""What the noise refuses inside verl, without verl; what it does there: `tests/integrations/test_oracle.py`."""

from types import SimpleNamespace

import pytest

from alpkit.config import PerturbationConfig
from alpkit.errors import ConfigError
from alpkit.integrations.verl_noise import _refuse, perturb


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 2}, "draws: 2 is not possible"),
        ({"gradient": "clean", "sigma": {"learnable": False}}, "gradient: clean is not possible"),
        ({"sigma": {"target_ratio_std": 0.05}}, "target_ratio_std is not possible"),
    ],
)
def test_noise_that_verl_cannot_make_is_refused_before_verl_is_touched(settings, message):
    with pytest.raises(ConfigError, match=message):
        perturb(PerturbationConfig.model_validate(settings))


def engine(*, slices=1, fused=False, dtype="bf16"):
    return SimpleNamespace(
        ulysses_sequence_parallel_size=slices,
        model_config=SimpleNamespace(use_fused_kernels=fused),
        engine_config=SimpleNamespace(mixed_precision={"param_dtype": dtype}),
    )


def test_settings_of_verl_under_which_the_noise_would_be_another_are_refused():
    plain, at_logits = PerturbationConfig(), PerturbationConfig(site="logits")
    with pytest.raises(ConfigError, match="ulysses"):
        _refuse(engine(slices=2), plain)
    with pytest.raises(ConfigError, match="use_fused_kernels"):
        _refuse(engine(fused=True), at_logits)
    with pytest.raises(ConfigError, match="param_dtype: fp16"):
        _refuse(engine(dtype="fp16"), plain)
    _refuse(engine(dtype="fp16"), PerturbationConfig(sigma={"learnable": False}))
    _refuse(engine(fused=True), plain)
    _refuse(engine(), at_logits)
