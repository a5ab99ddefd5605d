"""The command line: what each command prints, how it fails, and that it starts light."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alpkit.cli import app, output, reference, running
from alpkit.config import PRESETS, expand, load_ablation
from alpkit.launch import Options
from alpkit.runs.find import list_grids
from alpkit.tracking import prepare_store

ROOT = Path(__file__).parents[2]
FAKE = "tests.support.fake_trainer:train_cell"


@pytest.fixture
def fake(monkeypatch, workplace):
    """A working directory whose cells take milliseconds, with a grid file in it."""
    monkeypatch.setattr(running, "Options", functools.partial(Options, trainer=FAKE))
    grid(workplace, ["grpo", {"name": "wrong", "preset": "grpo", "model": "fake/raise"}])
    return workplace


def grid(folder, arms, **rest):
    data = {
        "name": "small",
        "base": {"train": {"steps": 12}},
        "arms": arms,
        "seeds": [0, 1],
        **rest,
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(data))


def test_help_starts_light_and_lists_every_command():
    check = (
        "import sys\nsys.argv = ['alpkit', '--help']\n"
        "from alpkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'matplotlib', 'pydantic', 'numpy'} & sys.modules.keys()\n"
        "sys.stderr.write(repr(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stderr == "set()"
    for command in ("run", "plan", "analyze", "compare", "replay", "show", "methods", "ui"):
        assert f"  {command} " in done.stdout


def test_the_documentation_is_what_the_commands_say():
    text = (ROOT / "docs" / "cli.md").read_text()
    assert text == reference.render(), "python -m alpkit.cli.reference > docs/cli.md"
    for command in app.registered_commands:
        assert f"## {command.name or command.callback.__name__}\n" in text
        assert command.callback.__doc__


def test_run_reports_results_failures_and_what_to_type_next(call, fake):
    code, out, err = call("run", "grid.yaml", "--launcher", "inline")
    assert code == 1
    lines = [line.split() for line in out.splitlines()]
    header, *rows = lines[[line[:1] for line in lines].index(["arm"]) :]
    assert header == ["arm", "seeds", "reward", "width,", "nats"]
    # The last ten of twelve steps: mean of 3/64 … 12/64. Two seeds that agree are one number.
    assert rows[0] == ["grpo", "2", "0.117", "0.500"]
    assert rows[1] == ["wrong", "0", "of", "2", "–", "–"]
    assert "failed" in err
    assert "ValueError: the third step is wrong" in err
    assert "Traceback" not in err
    parent = list_grids(Path("."))[0].parent_run_id
    assert f"next: alpkit analyze {parent[:8]}" in err
    assert prepare_store().client.get_run(parent).data.metrics["final_reward/grpo"] == 7.5 / 64
    assert "writes reports/small-" in err
    assert "      mlflow ui\n" in err
    assert "workflowType=machine_learning" in err

    (fake / "runs" / "small" / "fixed").touch()
    code, out, err = call("run", "grid.yaml", "--launcher", "inline", "--json")
    assert code == 0
    told = json.loads(out)
    assert {cell["state"] for cell in told["cells"]} == {"finished"}
    assert len(told["skipped"]) == 2
    assert told["arms"][1]["reward/mean"] == {"mean": 7.5 / 64, "std": 0.0, "seeds": 2}
    assert f"skipped {told['skipped'][0]}: it has finished" in err


def test_run_in_worker_processes_with_overrides(call, fake):
    code, out, err = call(
        "run", "grid.yaml", "--jobs", "2", "--only", "grpo", "--set", "train.steps=3"
    )
    assert code == 0
    assert "0.0312" in out
    assert err.count("started ") == 2
    assert [c.state for c in list_grids(Path("."))[0].cells] == ["finished", "pending"] * 2


def test_dry_run_and_plan_create_nothing(call, fake):
    before = sorted(p.name for p in fake.iterdir())
    code, out, err = call("run", "grid.yaml", "--dry-run", "--only", "grpo")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["arm", "grpo", "grpo"]
    assert "2 of 4 cells would run" in err
    code, out, _ = call("plan", "grid.yaml")
    assert code == 0
    ids = [cell.cell_id for cell in expand(load_ablation("grid.yaml")).cells]
    assert [line.split()[0] for line in out.splitlines()[1:]] == ids
    assert sorted(p.name for p in fake.iterdir()) == before


def test_plan_as_json_and_in_full(call, fake):
    _, out, _ = call("plan", "grid.yaml", "--json", "--full")
    told = json.loads(out)
    assert [c["state"] for c in told["cells"]] == ["pending"] * 4
    assert told["cells"][0]["config"]["train"]["steps"] == 12
    _, out, _ = call("plan", "grid.yaml", "--full")
    documents = [d for d in yaml.safe_load_all(out) if d]
    assert [d["seed"] for d in documents] == [0, 0, 1, 1]


def test_plan_names_the_control_that_was_added(call, workplace):
    grid(workplace, ["seq-alp"])
    code, out, err = call("plan", "grid.yaml")
    assert code == 0
    assert "seq-bypass" in out
    assert "control: seq-bypass is seq-alp without its noise" in err


def test_analyze_writes_a_report_and_logs_it_on_the_parent_run(call, fake):
    call("run", "grid.yaml", "--launcher", "inline", "--only", "grpo")
    code, out, _ = call("analyze", "latest")
    assert code == 0
    table, _, last = out.strip().rpartition("\n")
    assert table.split()[:3] == ["arm", "seeds", "reward"]
    page = Path(last)
    assert page.name == "report.html"
    assert "<html" in page.read_text()
    parent = list_grids(Path("."))[0].parent_run_id
    logged = {file.path for file in prepare_store().client.list_artifacts(parent, "report")}
    assert logged == {f"report/{path.name}" for path in page.parent.iterdir()}
    run = prepare_store().client.get_run(parent)
    assert run.data.metrics["final_reward/grpo"] == 7.5 / 64
    assert run.data.tags["mlflow.note.content"].startswith("[Report](#/experiments/")
    assert f"{parent}/artifacts/report/report.html)" in run.data.tags["mlflow.note.content"]
    tops = {file.path for file in prepare_store().client.list_artifacts(parent)}
    assert {"overview.json", "summary.png"} <= tops
    (fake / "mlflow.db").unlink()
    code, out, err = call(
        "analyze", "small", "--json", "--tracking-uri", "sqlite:///grid.yaml/x.db"
    )
    assert code == 0
    told = json.loads(out)
    assert told["logged"] is False
    assert "not on the parent run" in err


def test_analyze_works_from_the_store_alone(call, fake):
    call("run", "grid.yaml", "--launcher", "inline", "--only", "grpo")
    shutil.rmtree("runs")
    code, out, _ = call("analyze", "small")
    assert code == 0
    page = Path(out.strip().splitlines()[-1]).read_text()
    assert "Read from the MLflow store alone" in page
    client = prepare_store().client
    experiment = client.get_experiment_by_name("small").experiment_id
    (parent,) = client.search_runs([experiment], "tags.`alpkit.kind` = 'grid'")
    logged = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    assert "report/report.html" in logged
    assert call("analyze", "nope")[0] == 2


def test_show_has_states_and_one_cells_whole_error(call, fake):
    call("run", "grid.yaml", "--launcher", "inline")
    _, out, _ = call("show", "latest")
    states = [line.split()[3] for line in out.splitlines()[1:]]
    assert states == ["finished", "failed", "finished", "failed"]
    _, out, _ = call("show", "small", "--json")
    cell = json.loads(out)["cells"][1]
    _, out, _ = call("show", cell["cell_id"])
    assert "Traceback" in out
    assert len([line for line in out.splitlines() if line.startswith(cell["cell_id"])]) == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("run", "missing.yaml"), "there is no such file"),
        (("plan", "missing.yaml"), "there is no such file"),
        (("run", "grid.yaml", "--only", "gpro"), "no arm 'gpro'"),
        (("run", "grid.yaml", "--set", "train.stepz=3"), "train.stepz"),
        (("show", "nope"), "no run 'nope'"),
        (("analyze", "nope"), "no run 'nope'"),
        (("methods", "seq-al"), "did you mean 'seq-alp'?"),
        (("ui", "--tracking-uri", "sqlite:///other.db"), "no tracking store here"),
        (("ui", "--tracking-uri", "http://server"), "open http://server"),
        (("run", "grid.yaml", "--tracking-uri", "./mlruns"), "folders no longer"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(call, fake, args, says):
    before = sorted(p.name for p in fake.iterdir())
    code, out, err = call(*args)
    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert out == ""
    assert sorted(p.name for p in fake.iterdir()) == before


def test_an_unknown_key_is_named_with_its_place(call, workplace):
    grid(workplace, ["grpo"], base={"train": {"stepz": 3}})
    code, _, err = call("plan", "grid.yaml")
    assert code == 2
    assert "grid.yaml:5:5" in err
    assert "did you mean 'steps'" in err


def test_debug_shows_the_traceback(monkeypatch, workplace):
    monkeypatch.setattr(sys, "argv", ["alpkit", "plan", "missing.yaml", "--debug"])
    with pytest.raises(Exception, match="there is no such file"):
        app(standalone_mode=False)


def test_usage_errors_exit_with_2_and_no_command_prints_help(call):
    assert call("frobnicate")[0] == 2
    assert call("run")[0] == 2
    code, out, err = call()
    assert code == 2
    assert "Commands" in out + err
    assert call("--version")[1].strip() == __import__("alpkit").__version__


def test_methods_lists_every_preset_and_a_card_resolves_its_bounds(call):
    _, out, _ = call("methods")
    assert [line.split()[0] for line in out.splitlines()[1:]] == list(PRESETS)
    assert "[0.9997, 1.0004]" in out
    _, out, _ = call("methods", "seq-alp", "--json")
    card = json.loads(out)
    assert card["objective"]["surrogate"]["dual_clip"] == 10.0
    assert card["perturbation"]["layers"] == "all"
    _, out, _ = call("methods", "token-tis")
    assert "truncate, mismatch, token, <= 2" in out
    assert "weight: {action: truncate, of: mismatch, level: token, upper: 2.0}" in out
    assert "avoid      when one token" in out


def test_ui_serves_the_store_that_would_be_used(call, fake, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda path, args: started.append(args))
    call("run", "grid.yaml", "--launcher", "inline", "--only", "grpo")
    _, _, err = call("ui", "--port", "5055")
    assert started[0][1:] == [
        *("-m", "mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db"),
        *("--host", "127.0.0.1", "--port", "5055"),
    ]
    experiment = prepare_store().client.get_experiment_by_name("small").experiment_id
    assert f"http://127.0.0.1:5055/#/experiments/{experiment}/runs?" in err


def test_hints_quote_a_store_that_is_not_the_default():
    assert output.ui_command("sqlite:///mlflow.db") == "mlflow ui"
    assert output.ui_command("sqlite:////a b/x.db") == (
        "mlflow ui --backend-store-uri 'sqlite:////a b/x.db'"
    )
