"""Looking a preset up by its name."""

from typing import Any

import pytest

from alpkit.config import PRESETS, preset
from alpkit.errors import ConfigError


def test_every_preset_is_found_by_its_name() -> None:
    assert [preset(name) for name in PRESETS] == list(PRESETS.values())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gropo", "did you mean 'grpo'?  presets: "),
        ("?", "presets: "),
        (["grpo"], ""),
        (None, "presets: "),
    ],
)
def test_another_name_is_an_error_with_the_nearest_and_all(name: Any, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preset(name, where="a.yaml:3:1")
    assert caught.value.what == f"{name!r} is not a preset"
    assert caught.value.where == "a.yaml:3:1"
    assert caught.value.fix.startswith(hint)
    assert caught.value.fix.endswith(", ".join(sorted(PRESETS)))
