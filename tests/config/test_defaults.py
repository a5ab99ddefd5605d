"""The committed table of defaults: one that changes without a new version is caught."""

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from alpkit.config.base import Section
from alpkit.config.defaults import COMMAND, Defaults, defaults, read, unversioned, write
from alpkit.errors import ConfigError

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests" / "config" / "defaults.json"


def test_the_committed_table_is_that_of_the_code() -> None:
    committed, now = read(TABLE), defaults()
    changed = unversioned(committed, now)
    assert not changed, (
        f"{changed}\nraise DEFAULTS_VERSION in alpkit/config/identity.py by one, then run: {COMMAND}"
    )
    assert committed == now, f"the table is not the current one; run: {COMMAND}"


def test_the_command_in_the_message_writes_that_file() -> None:
    module, path = re.fullmatch(r"python -m (\S+) (\S+)", COMMAND).groups()  # type: ignore[union-attr]
    assert module == defaults.__module__
    assert ROOT / path == TABLE


def test_the_table_has_every_branch_and_nothing_that_is_no_part_of_an_id() -> None:
    fields = defaults().fields
    assert fields["train.steps"] == 60
    assert (fields["rollout"], fields["rollout[vllm].dtype"]) == ({"engine": "hf"}, "bfloat16")
    assert (fields["perturbation"], fields["perturbation.sigma.init"]) == (None, 0.02)
    assert (
        fields["objective.reject[k1].reduce"] == fields["objective.reject[ratio].level"] == "token"
    )
    assert fields["task[reasoning_gym].dataset"] == "(required)"
    assert not [key for key in fields if key.startswith(("checkpoint", "hardware"))]


class _A(Section):
    kind: Literal["a"] = "a"
    size: int = 1


class _B(Section):
    kind: Literal["b"]
    size: int = 2


class _Small(Section):
    part: Annotated[_A | _B, Field(discriminator="kind")] = _A()
    parts: tuple[_A, ...] = (_A(size=5),)
    rate: float = 0.5


def test_the_table_of_a_model() -> None:
    assert defaults(_Small).fields == {
        "part": {"kind": "a"},
        "part[a].kind": "a",
        "part[a].size": 1,
        "part[b].kind": "(required)",
        "part[b].size": 2,
        "parts": [{"kind": "a", "size": 5}],
        "parts.kind": "a",
        "parts.size": 1,
        "rate": 0.5,
    }


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"a": 1, "b": None}, ""),
        ({"a": 1, "b": None, "new": 3}, ""),
        ({"a": 1}, ""),
        ({"a": 2, "b": None}, "defaults changed: a was 1, is 2"),
        ({"a": 1.0, "b": 0}, "defaults changed: a was 1, is 1.0; b was null, is 0"),
    ],
)
def test_only_a_changed_default_needs_a_new_version(
    now: dict[str, object], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "defaults.json"
    before = Defaults(4, {"a": 1, "b": None})
    write(path, before)
    assert unversioned(before, Defaults(4, now)) == told
    assert unversioned(before, Defaults(5, now)) == ""
    if told:
        with pytest.raises(ConfigError, match=re.escape(told)) as caught:
            write(path, Defaults(4, now))
        assert "DEFAULTS_VERSION" in caught.value.fix
        assert read(path) == before
    else:
        write(path, Defaults(4, now))
        assert read(path) == Defaults(4, now)
    write(path, Defaults(5, now))
    assert read(path) == Defaults(5, now)
