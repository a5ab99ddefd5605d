"""The choice of metrics for MLflow: about 60 by default, patterns, and no pattern that chooses nothing."""

import pytest
import yaml

from alpkit.config import expand, load_ablation
from alpkit.config.tracking import SECTIONS, TrackingConfig, tracked
from alpkit.errors import ConfigError
from alpkit.metrics import describe, known_keys


def test_the_default_is_about_sixty_known_keys_with_the_reward_first():
    keys = [key for section in SECTIONS.values() for key in section]
    assert 50 <= len(keys) <= 70
    assert len(set(keys)) == len(keys)
    assert keys[0] == "reward/mean"
    for key in keys:
        assert describe(key).key == key
        assert tracked(["default"], key)
    taken = [key for key in known_keys() if tracked(["default"], key)]
    assert len(taken) < 0.2 * len(known_keys())


@pytest.mark.parametrize(
    ("patterns", "key", "taken"),
    [
        (["default"], "ratio/raw/geometric/chi2", False),
        (["default", "ratio/raw/geometric/*"], "ratio/raw/geometric/chi2", True),
        (["default"], "eval/aime24/greedy", True),
        (["reward/mean"], "reward/std", False),
        (["all"], "ratio/applied/token/hill_left", True),
        (["sigma/layer_*"], "sigma/layer_07", True),
    ],
)
def test_what_a_selection_takes(patterns, key, taken):
    assert TrackingConfig(metrics=patterns).metrics == tuple(patterns)
    assert tracked(patterns, key) is taken


def test_one_pattern_needs_no_list_and_a_grid_knows_its_selection(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"name": "g", "arms": ["grpo"], "tracking": {"metrics": "all"}}))
    grid = expand(load_ablation(path))
    assert grid.manifest()["metrics"] == ["all"]
    path.write_text("name: g\narms: [grpo]\ntracking: {metrics: [default, kl/k33]}\n")
    with pytest.raises(ConfigError, match=r"no metric is called 'kl/k33'.*'kl/k3'") as error:
        load_ablation(path)
    assert "grid.yaml:3:12" in str(error.value)
