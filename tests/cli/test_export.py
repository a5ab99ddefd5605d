"""`alpkit export`: the folder holds the trained policy, to the bit, as transformers and vLLM read it."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpkit.errors import ConfigError, TrackingError
from alpkit.policy.loading import load_policy
from alpkit.runs.checkpoint import latest_checkpoint, load_checkpoint
from alpkit.runs.folder import RunFolder
from alpkit.trainer.export import ORIGIN, export
from tests.support.replay_runs import trained

GREEDY = """
import sys
from vllm import LLM, SamplingParams
llm = LLM(model=sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=64,
          kv_cache_memory_bytes=2**26)
params = SamplingParams(temperature=0, max_tokens=5)
prompt = {"prompt_token_ids": [int(token) for token in sys.argv[2].split(",")]}
print("ids", *llm.generate(prompt, params)[0].outputs[0].token_ids)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A cell that has trained two steps, its policy as the checkpoint has it, and its export."""
    place = tmp_path_factory.mktemp("export")
    cell = trained(place / "cell", seed=1)
    policy = load_policy("builtin:tiny-addition")
    load_checkpoint(latest_checkpoint(RunFolder(cell).checkpoints), policy.model)
    return policy, export(str(cell), place / "policy"), cell


def test_transformers_reads_the_checkpoints_weights_and_the_tokenizer(exported):
    policy, found, _ = exported
    loaded = AutoModelForCausalLM.from_pretrained(found.folder)
    before = load_policy("builtin:tiny-addition").model
    pairs = zip(loaded.named_parameters(), policy.model.named_parameters(), strict=True)
    for (name, value), (known, wanted) in pairs:
        assert name == known
        torch.testing.assert_close(value, wanted, rtol=0, atol=0)
    assert loaded.dtype == torch.float32
    assert any(
        not torch.equal(a, b) for a, b in zip(loaded.parameters(), before.parameters(), strict=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(found.folder)
    assert tokenizer("12+34=")["input_ids"] == policy.tokenizer("12+34=")["input_ids"]
    assert loaded.generation_config.eos_token_id == policy.model.generation_config.eos_token_id


def test_the_origin_stands_beside_the_weights(exported):
    _, found, cell = exported
    origin = json.loads((found.folder / ORIGIN).read_text())
    assert (origin["cell_id"], origin["step"]) == (cell.name, found.step)
    assert (origin["model"], origin["seed"]) == ("builtin:tiny-addition", 1)


def test_what_is_there_is_not_replaced(exported, tmp_path):
    _, found, cell = exported
    before = sorted(path.name for path in found.folder.iterdir())
    with pytest.raises(ConfigError, match="is not empty"):
        export(str(cell), found.folder)
    assert sorted(path.name for path in found.folder.iterdir()) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        export(str(cell), tmp_path / "file")


def test_a_cell_without_a_checkpoint_leaves_no_folder(tmp_path):
    cell = trained(tmp_path / "cell")
    checkpoint = latest_checkpoint(RunFolder(cell).checkpoints)
    checkpoint.rename(checkpoint.with_name(f".{checkpoint.name}"))
    with pytest.raises(TrackingError, match="has no checkpoint"):
        export(str(cell), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_the_command_says_where_the_policy_came_from(exported, call, tmp_path):
    *_, cell = exported
    code, out, err = call("export", cell, tmp_path / "p", "--json")
    assert code == 0, err
    assert json.loads(out)["folder"] == str(tmp_path / "p")
    assert (tmp_path / "p" / "model.safetensors").is_file()
    code, _, err = call("export", cell, tmp_path / "p")
    assert code == 2
    assert "an export replaces nothing" in err


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_reads_it_and_continues_as_transformers_does(exported):
    pytest.importorskip("vllm")
    policy, found, _ = exported
    ids = policy.tokenizer("12+34=")["input_ids"]
    wanted = policy.model.generate(
        torch.tensor([ids]), max_new_tokens=5, do_sample=False, pad_token_id=0
    )[0, len(ids) :].tolist()
    done = subprocess.run(
        [sys.executable, "-c", GREEDY, found.folder, ",".join(map(str, ids))],
        capture_output=True,
        text=True,
        timeout=600,
    )
    line = next((row for row in done.stdout.splitlines() if row.startswith("ids")), done.stderr)
    assert line.split()[1:] == [str(token) for token in wanted]
