"""The noise as configured: one meaning, one spelling; faults name their field."""

import pytest
from pydantic import ValidationError

from alpkit.config import PerturbationConfig, RunConfig, expand, load_ablation
from alpkit.config.perturbation import ScheduleConfig


def noise(**settings):
    return PerturbationConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ({"schedule": "constant"}, {}),
        ({"site": "embedding", "layers": "late"}, {"site": "embedding"}),
        ({"site": "logits", "layers": [1, 2]}, {"site": "logits"}),
        (
            {"sigma": {"learnable": False, "lr": 0.5, "weight_decay": 0.1}},
            {"sigma": {"learnable": False}},
        ),
        (
            {"sigma": {"target_ratio_std": 0.1, "lr": 0.5}},
            {"sigma": {"target_ratio_std": 0.1, "learnable": False}},
        ),
    ],
)
def test_what_has_no_effect_does_not_make_another_cell(spelled, plain):
    assert noise(**spelled) == noise(**plain)
    ids = {RunConfig(perturbation=noise(**given)).cell_id() for given in (spelled, plain)}
    assert len(ids) == 1


@pytest.mark.parametrize("site", ["layer_input", "embedding", "logits"])
def test_no_layers_are_the_control_at_every_site(site):
    off = noise(site=site, layers=[], sigma={"learnable": False})
    assert off.attaches_nothing
    assert RunConfig(perturbation=off).perturbation is None


def test_a_validated_config_validates_to_itself():
    for given in (
        {"sigma": {"target_ratio_std": 0.1}, "schedule": {"warmup": 5}},
        {"draws": 4, "antithetic": True, "schedule": {"decay_to": 0.1, "steps": 9}},
        {"site": "logits", "sigma": {"per": "vocab", "lr": 0.1}},
        {"gradient": "clean", "sigma": {"learnable": False}},
        {"gradient": "clean", "sigma": {"target_ratio_std": 0.1}},
        {"sigma": {"lr": 0}},
    ):
        assert noise(**noise(**given).model_dump(mode="json")) == noise(**given)


def test_schedules_by_value():
    assert [ScheduleConfig(warmup=4).factor(s) for s in (1, 2, 4, 9)] == [0.25, 0.5, 1, 1]
    decay = ScheduleConfig(decay_to=0.5, steps=2)
    assert [decay.factor(s) for s in (1, 2, 9)] == [0.75, 0.5, 0.5]
    assert ScheduleConfig().factor(7) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sigma": {"init": -0.1}}, "sigma.init"),
        ({"sigma": {"init": 0}}, "init: 0 cannot be learned"),
        ({"sigma": {"init": None}}, "init: null needs target_ratio_std"),
        ({"sigma": {"init": 0.1, "target_ratio_std": 0.1}}, "init: target_ratio_std finds sigma"),
        ({"sigma": {"learnable": True, "target_ratio_std": 0.1}}, "would not stay matched"),
        ({"gradient": "clean"}, "sigma has no gradient to learn from"),
        ({"gradient": "none"}, "perturbed' or 'clean'"),
        ({"sigma": {"lr": -0.1}}, "greater than or equal to 0"),
        ({"sigma": {"per": "vocab"}}, "per: vocab is one sigma per logit; layer_input has none"),
        ({"site": "mlp"}, "site"),
        ({"antithetic": True}, "antithetic: pairs need an even number of draws, got 1"),
        ({"draws": 3, "antithetic": True}, "set draws: 4"),
        ({"draws": 0}, "draws"),
        ({"schedule": "linear"}, "'linear' is no schedule; write constant, {warmup: n} or"),
        ({"schedule": {"warmup": 4, "steps": 2}}, "steps, warmup do not make a schedule"),
        ({"schedule": {"decay_to": 0.5}}, "decay_to do not make a schedule"),
        ({"schedule": {"warmup": 1}}, "greater than or equal to 2"),
        ({"schedule": {"decay_to": 1.0, "steps": 3}}, "less than 1"),
    ],
)
def test_a_fault_names_its_field(given, message):
    with pytest.raises(ValidationError) as caught:
        noise(**given)
    assert message in str(caught.value)


def test_sites_and_layers_cross_without_idle_cells(tmp_path):
    """Two sites x three windows: the embedding has no layers, so it is one cell, not three."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\nquestion: q\narms: [{preset: seq-alp, perturbation: {sigma: {target_ratio_std: 0.1}}}]\n"
        "axes: {perturbation.site: [mlp_output, embedding], perturbation.layers: [early, late, all]}\n"
        "seeds: [0]\n"
    )
    grid = expand(load_ablation(path))
    found = [
        (cell.config.perturbation.site, cell.config.perturbation.layers)
        for cell in grid.cells
        if cell.config.perturbation
    ]
    assert sorted(found) == [
        ("embedding", "all"),
        ("mlp_output", "all"),
        ("mlp_output", "early"),
        ("mlp_output", "late"),
    ]
