"""When noise is called too small or too large, and what is said of it."""

import pytest

from alpkit.diagnostics.noise_size import NoiseSize


@pytest.mark.parametrize(
    ("perturbation", "ratio", "told"),
    [
        (0.016, 0.63, "nearly its control: the noise moves log-probs by 0.016 nats a token, 2.5%"),
        (1.79, 0.16, "another policy: the noise moves log-probs by 1.79 nats a token, more than 1"),
        (0.0499, 1.0, "nearly its control"),
        (0.05, 1.0, None),
        (1.0, 0.2, None),
        (0.0, 0.2, "nearly its control"),
        (0.001, 0.0, None),  # a ratio without spread hides nothing
        (1.01, 0.0, "another policy"),
    ],
)
def test_a_caution_where_noise_is_lost_or_rules(perturbation, ratio, told):
    texts = list(NoiseSize({"layer 00": 0.1}, perturbation, ratio).cautions())
    assert [text.startswith(told or "?") for text in texts] == ([True] if told else [])
    assert all("sigma.target_ratio_std" in text for text in texts)


def test_noise_may_be_lost_in_a_ratio_and_another_policy_at_once():
    lost, ruling = NoiseSize({"site": 0.1}, 2.0, 50.0).cautions()
    assert lost.startswith("nearly")
    assert ruling.startswith("another")


def test_every_layer_is_named():
    text = str(NoiseSize({"layer 00": 0.15, "layer 03": 0.008}, 0.18, 0.12))
    assert text == (
        "noise over the state's rms: layer 00 0.15, layer 03 0.008; it moves log-probs by 0.18 nats a token, "
        "150% of the ratio's 0.12"
    )
    assert "ratio" not in str(NoiseSize({"site": 0.1}, 0.18, 0.0))
