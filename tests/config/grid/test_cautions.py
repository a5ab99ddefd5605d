"""Combinations that run but mean less than they seem to are named; sound ones are not."""

import pytest

from alpkit.config import PRESETS, RunConfig
from alpkit.config.grid.cautions import cautions


def said(arm="a", objective=None, **config):
    return list(cautions({arm: RunConfig(objective=objective or {}, **config)}))


GEO = {"statistic": "ratio", "level": "geometric"}


@pytest.mark.parametrize(
    ("objective", "part"),
    [
        ({"weight": {"action": "mask", "lower": 0.5, "normalize": "batch"}}, "amplified"),
        ({"weight": {"action": "mask", "level": "geometric", "lower": 0.5, "upper": 5}}, "never leaves"),
        ({"reject": [{**GEO, "lower": 0.5, "upper": 5}]}, "reject[0] bounds a geometric mean by [0.5, 5]"),
        ({"reject": [{**GEO, "upper": 5}]}, "[0, 5]"),
        (
            {"ratio": {"level": "geometric"}, "surrogate": {"epsilon_low": 0.5, "epsilon_high": 3}},
            "surrogate bounds a geometric mean",
        ),
        ({"reference_kl": {"coef": 0.1, "estimator": "k1"}}, "none in expectation"),
        ({"surrogate": {"epsilon_high": 3.0, "dual_clip": 3.0}}, "below the band's top 4"),
    ],
)  # fmt: skip
def test_each_caution(objective, part):
    (text,) = said(objective=objective)
    assert part in text
    assert text.startswith("'a': ")


def test_products_over_long_responses():
    weight = {"weight": {"action": "truncate", "level": "product"}}
    assert said(objective=weight) == []
    (text,) = said(objective=weight, rollout={"max_tokens": 2048})
    assert "2048 tokens" in text


def test_a_one_sided_mask_is_not_icepop():
    weight = {"weight": {"action": "mask"}}
    assert said("mask", weight) == []
    (text,) = said("my-IcePop", weight)
    assert "no lower bound" in text


def test_shrinking_beside_keeping_is_a_hidden_learning_rate():
    arms = {
        name: RunConfig.model_validate(PRESETS[name].settings) for name in ("grpo", "k3-rs", "opsm")
    }
    (text,) = cautions(arms)
    assert text.startswith(
        "'k3-rs' takes rejected tokens out of its token mean and 'grpo' does not"
    )
    assert list(cautions({"k3-rs": arms["k3-rs"]})) == []
    assert list(cautions({name: arms[name] for name in ("grpo", "opsm")})) == []


def test_clean_presets_need_no_caution_and_released_quirks_do():
    for name, preset in PRESETS.items():
        texts = said(name, **preset.settings)
        if not name.startswith("paper/"):
            assert texts == [], name
    assert any("never leaves" in text for text in said(**PRESETS["paper/geo-rs"].settings))
    assert any("below the band" in text for text in said(**PRESETS["paper/mt-seq-alp"].settings))


def test_the_region_where_the_built_in_adder_collapsed_is_named():
    train = {"lr": 1e-4, "updates_per_rollout": 16}
    (text,) = said(train=train)
    assert text.startswith("'a': at train.lr 0.0001 with 16 updates a rollout")
    sound = RunConfig()
    assert sound.train.lr == 2e-5  # a newcomer's minimal file must learn
    (text,) = cautions({"sound": sound, "b": RunConfig(train=train), "c": RunConfig(train=train)})
    assert text.startswith("'b' and 1 more: ")
    for other in (
        {},
        {"train": {"lr": 9e-5}},
        {"train": {"lr": 2e-4, "updates_per_rollout": 4}},
        {"model": "some/other", "train": train},
    ):
        assert said(**other) == []


@pytest.mark.parametrize("schedule", [{"warmup": 61}, {"decay_to": 0.1, "steps": 61}])
def test_a_schedule_of_sigma_that_outlives_the_run(schedule):
    noise = {"schedule": schedule}
    (text,) = said(perturbation=noise, objective={"ratio": {"denominator": "rollout"}})
    assert "ends at step 61 and the run at train.steps 60" in text
    later = said(
        perturbation=noise, objective={"ratio": {"denominator": "rollout"}}, train={"steps": 61}
    )
    assert later == []
