"""docs/config.md says of every key what it takes, its default and its meaning, and its examples hold."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from alpkit.config import RunConfig, expand, load_ablation
from alpkit.config import reference as page
from alpkit.config.defaults import sections
from alpkit.config.files.faults import choices
from alpkit.config.files.yaml import parse_yaml
from alpkit.config.grid.ablation import AblationConfig, LaunchConfig
from alpkit.config.grid.own_methods import MethodConfig, load_method

ROOT = Path(__file__).parents[2]
MODELS = {AblationConfig, LaunchConfig, MethodConfig, RunConfig}
MODELS |= {part.model for part in page.parts(RunConfig)}


def test_the_committed_page_is_the_generated_one():
    assert (ROOT / "docs" / "config.md").read_text() == page.markdown()
    printed = subprocess.run(
        [sys.executable, "-m", "alpkit.config.reference"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert printed.stdout == page.markdown()


@pytest.mark.parametrize("model", sorted(MODELS, key=lambda m: m.__name__))
def test_every_field_has_its_row_and_its_meaning(model: type[BaseModel]):
    text = page.markdown()
    for name, info in model.model_fields.items():
        assert f"\n| `{name}` | " in text
        picker = len(choices([info.annotation])) == 1
        assert info.description or picker or list(sections(info.annotation)), f"{name}: no text"


def test_every_top_section_has_an_example_and_every_example_is_a_run():
    for part in page.parts(RunConfig):
        assert part.example or "." in part.path, part.path
        # What an installed package would offer is not installed here.
        foreign = [text for name, text in page.EXAMPLES.items() if name.endswith(" any other")]
        if part.example and part.example not in foreign:
            data = parse_yaml(part.example, part.path).data
            config = RunConfig.model_validate(data)
            if part.path == "perturbation":
                assert config.perturbation is not None
    # An example under a name that no section has would never be shown.
    shown = {part.example for part in page.parts(RunConfig)}
    assert set(page.EXAMPLES.values()) <= shown


def test_the_examples_of_the_two_files_load(tmp_path):
    blocks = page.markdown().split("```yaml\n")
    (tmp_path / "grid.yaml").write_text(blocks[1].split("```")[0])
    (tmp_path / "capped.yaml").write_text(blocks[2].split("```")[0])
    grid = expand(load_ablation(tmp_path / "grid.yaml"))
    assert any(arm.startswith("capped") for arm in grid.arms)
    assert load_method(tmp_path / "capped.yaml").run.objective.surrogate.epsilon_high == 1.0


@pytest.mark.parametrize(
    "row",
    [
        "| `digits` | a whole number >= 1 and <= 9 | `3` | Digits of each operand. |",
        "| `betas` | a list of 2 numbers | `[0.9, 0.99]` | AdamW betas. |",
        "| `jobs` | a whole number or `auto` | `auto` |",
        "| `dual_clip` | a number > 1 or null | null |",
        "| `perturbation` | a section, below or null | absent |",
        "| `replay` | true, false | `false` |",
    ],
)
def test_values_are_said_in_the_words_of_a_file(row):
    assert row in page.markdown()
