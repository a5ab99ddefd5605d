"""What can be refused early is: names, parameters, files and models, all at once, without torch and in seconds."""

import http.server
import json
import subprocess
import sys
import threading
import time

import pytest

from alpkit.errors import ConfigError
from alpkit.launch import load_grid, look
from alpkit.launch.names import ask_hub, check_model_name

HEAD = "name: a\nseeds: [0, 1]\n"


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def write(text):
        (tmp_path / "a.yaml").write_text(text)
        return "a.yaml"

    return write


def told(call, *args):
    code, out, err = call(*args)
    assert out == "" or code == 0
    return code, err


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("task: {name: reasoning_gym, dataset: chainsum}", "did you mean 'chain_sum'?"),
        (
            "task: {name: reasoning_gym, dataset: chain_sum, params: {max_term: 3}}",
            "max_term is not a parameter of chain_sum",
        ),
        ("model: tiny-addition", "write builtin:tiny-addition"),
        ("model: builtin:tiny-adition", "did you mean 'builtin:tiny-addition'?"),
    ],
)
@pytest.mark.parametrize("command", [("plan",), ("run", "--dry-run")])
def test_plan_and_dry_run_refuse_what_no_machine_has(call, file, base, says, command):
    path = file(HEAD + f"arms: [grpo]\nbase: {{{base}}}\n")
    code, err = told(call, command[0], path, *command[1:])
    assert (code, says in err) == (2, True)
    # Not once per seed.
    assert err.count(says) == 1


def test_what_this_machine_lacks_is_a_note_of_plan_and_stops_a_run(call, file, tmp_path):
    base = "{task: {name: file, path: no.jsonl}, model: ./nowhere}"
    path = file(HEAD + f"arms: [grpo]\nbase: {base}\n")
    code, err = told(call, "plan", path)
    assert code == 0
    assert "not ready here: task.path of cell" in err
    assert "model folder ./nowhere does not exist" in err
    told_json = json.loads(call("plan", path, "--json")[1])
    assert len(told_json["lacking"]) == 2
    code, err = told(call, "run", path, "--dry-run")
    assert code == 2
    assert "no.jsonl does not exist" in err
    assert "model folder ./nowhere does not exist" in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.yaml"]


def test_a_folder_that_is_no_model(call, file, tmp_path):
    (tmp_path / "m").mkdir()
    path = file(HEAD + "arms: [grpo]\nbase: {model: ./m}\n")
    assert "its config.json is missing" in told(call, "plan", path)[1]
    (tmp_path / "m/config.json").write_text("{")
    assert "its config.json cannot be read" in told(call, "plan", path)[1]
    (tmp_path / "m/config.json").write_text('{"model_type": "qwen2"}')
    assert "not ready" not in told(call, "plan", path)[1]


def test_faults_of_all_stages_come_together(file):
    path = file(
        "name: My Grid\n"
        "base: {task: {name: reasoning_gym, dataset: chainsum}, train: {stepz: 3}}\n"
        "arms: [gropo, {preset: seq-alp, perturbation: {layers: some}}, {preset: gspo, model: tiny-addition}]\n"
        "axes: {train.lr: [1, fast]}\n"
        "seeds: [0, 0]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_grid(path)
    text = str(caught.value)
    for words in (
        "'My Grid' cannot name a folder",
        "train.stepz is not a field of train",
        "'gropo' is not a preset",
        "'some' names no layers",
        "train.lr: wanted a number, got the text 'fast'",
        "seed 0 is listed twice",
        "reasoning-gym has no data set 'chainsum'",
        "tiny-addition lacks its builtin:",
    ):
        assert text.count(words) == 1, words


def test_a_file_with_one_fault_is_told_as_before(file):
    path = file("name: a\narms: [grpo, {preset: gspo, dtype: bf16}]\n")
    with pytest.raises(ConfigError) as caught:
        load_grid(path)
    assert str(caught.value).startswith("a.yaml:2:36  dtype: wanted one of float32")


def test_plan_imports_no_torch(file, tmp_path):
    file(HEAD + "arms: [grpo, seq-alp]\n")
    check = (
        "import sys; sys.argv = ['alpkit', 'plan', 'a.yaml']\n"
        "from alpkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(repr({'torch', 'transformers', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.stderr.endswith("set()")


class _Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        if "slow" in self.path:
            time.sleep(1.5)
        code = 200 if "there/is" in self.path else 401 if "mine" in self.path else 404
        self.send_response(code)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_hub_is_asked_once_and_not_for_long(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert ask_hub("there/is/x") == "there"
    assert ask_hub("there/was/x") == "not there"
    assert ask_hub("mine/x") == "not for you"
    start = time.monotonic()
    assert ask_hub("slow/x", patience=0.3) == "silent"
    assert time.monotonic() - start < 1.2
    with pytest.raises(ConfigError, match="neither a folder here nor a model of the hub"):
        check_model_name("some/misspelt-model", None)
    check_model_name("there/is", None)
    server.shutdown()


def test_a_grid_without_names_to_look_up_has_nothing_against_it(file):
    seen = look(load_grid(file(HEAD + "arms: [grpo]\n")).cells)
    assert (seen.wrong, seen.lacking) == ([], [])
