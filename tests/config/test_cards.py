"""Every method has a card, and the committed page is the generated one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alpkit.config import PRESETS, RunConfig
from alpkit.config.cards import card, markdown
from alpkit.errors import ConfigError

ROOT = Path(__file__).parents[2]
NAMED = """grpo dapo dr-grpo gspo cispo token-bypass seq-bypass token-tis seq-tis token-mis seq-mis icepop
geo-rs k3-rs seq-mask-tis opsm veto decoupled-ppo token-alp seq-alp geo-alp paper/gspo dppo-tv dppo-kl kpop ipo
sapo vespo reinforce reinforce-tis score-centering score-centering-tis""".split()


def test_every_named_method_is_there_and_is_its_own_run():
    assert set(NAMED) <= set(PRESETS)
    ids = {name: RunConfig.model_validate(p.settings).cell_id() for name, p in PRESETS.items()}
    # Its script never switches the noise on, which leaves the bypass: one cell, whichever name asks for it.
    assert ids.pop("paper/seq-alp-as-released") == ids["paper/seq-bypass"]
    assert len(set(ids.values())) == len(ids)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_card_has_formula_axes_source_and_caveat(name):
    preset, shown = PRESETS[name], card(name)
    for part in (preset.formula, preset.source, preset.avoid, *shown.axes.values()):
        assert part in shown.text
        assert part in "\n".join(shown.section)
    settings = yaml.safe_load(shown.settings)
    assert RunConfig.model_validate(settings) == RunConfig.model_validate(preset.settings)
    # A paper, or the trainer's thread where there is no paper.
    assert re.search(r"arXiv:\d{4}\.\d{5}|verl|prime-rl#\d+", preset.source + preset.formula)
    assert shown.axes.keys() >= {
        "ratio",
        "surrogate",
        "weight",
        "reject",
        "aggregate",
    }


def test_cards_show_bounds():
    assert "mask, mismatch, token, in [0.5, 5]" in card("icepop").text
    assert (
        "ratio geometric of mismatch < 0.999 or > 1.001, denominator shrink" in card("geo-rs").text
    )
    assert "k1 mean of bypass > 0.5, only A < 0, denominator keep" in card("opsm").text
    assert "band [0.5, 4], dual clip 10" in card("seq-alp").text
    assert "mask, mismatch, product, <= 3" in card("paper/token-mis-figure").text
    assert "0.001, k3, log ratio into +-20, value into +-10" in card("paper/seq-alp").text


@pytest.mark.parametrize("name", sorted(name for name in PRESETS if name.startswith("paper/")))
def test_a_released_scripts_card_says_where_it_is_from_and_what_is_not_taken(name):
    preset, text = PRESETS[name], card(name).text
    assert re.match(r"(script|README|paper): ", preset.source)
    assert preset.not_taken
    assert f"not taken  {preset.not_taken}" in re.sub(" +", " ", text).replace(
        "not taken ", "not taken  "
    )
    assert f"- **not taken**: {preset.not_taken}" in markdown()


def test_an_unknown_method_is_named_with_its_neighbour():
    with pytest.raises(ConfigError, match="'icepops' is not a preset") as caught:
        card("icepops")
    assert caught.value.fix.startswith("did you mean 'icepop'?  presets: ")


def test_the_committed_page_is_the_generated_one():
    assert (ROOT / "docs" / "methods.md").read_text() == markdown()
    printed = subprocess.run(
        [sys.executable, "-m", "alpkit.config.cards"], check=True, capture_output=True, text=True
    )
    assert printed.stdout == markdown()
