"""The batching floor: the same tokens alone and eight at a time, before the first update.

The tiny model's matrices are too small for kernels that care about the shape, in any dtype: where a test
needs a floor, it gives the trainer one. SmolLM2-135M's, on a CPU: largest 1e-5 nats in float32, 0.04 in bfloat16.
"""

import numpy as np
import pytest

from alpkit.analysis import load
from alpkit.analysis.figures import ccdf
from alpkit.analysis.figures.style import looks
from alpkit.config import RunConfig, dump_yaml
from alpkit.runs import records
from alpkit.runs.batching import Batching, scan_batching, write_batching
from alpkit.runs.states import CellRecord, Manifest, ManifestCell, write_cell, write_grid
from alpkit.runs.steps import CellTracker
from alpkit.trainer import batching_floor, train_cell
from alpkit.trainer.batching_floor import floor_metrics
from tests.support.replay_runs import SMALL, merged, metrics_of


def trained(folder, dtype="float32", floor=16, packed=2048):
    config = RunConfig.model_validate(
        merged(
            SMALL,
            {
                "dtype": dtype,
                "train": {"steps": 1},
                "diagnostics": {"batching_floor": floor},
                "hardware": {"micro_batch_tokens": packed},
                "records": {"replay": False},
            },
        )
    )
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(config))
    train_cell(config, folder, CellTracker(folder))
    record = CellRecord(folder.name, "grpo", 0, folder.parent.name, state="finished", steps_done=1)
    write_cell(folder, record)
    cells = (ManifestCell(folder.name, "grpo", 0),)
    write_grid(folder.parent, Manifest(grid=folder.parent.name, cells=cells), [record])
    return folder


def shifted(logp, micro):
    """Every other token of a row moves by 1/64 nat for each row beside it in the forward."""
    columns = np.arange(logp.shape[1]) % 2
    return logp + (len(micro.sample) - 1) / 64 * logp.new_tensor(columns)


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    real = batching_floor._logp
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            batching_floor, "_logp", lambda state, micro: shifted(real(state, micro), micro)
        )
        return trained(tmp_path_factory.mktemp("half") / "runs" / "half" / "cell", dtype="float32")


def test_tokens_alone_are_compared_with_themselves_among_eight(half):
    (measured,) = scan_batching(half).rows
    tokens = records.read(half, steps=[1]).sort_values(["sample", "position"])
    first = tokens[tokens["sample"] < 16]
    assert measured.sample.tolist() == first["sample"].tolist()
    size, moved = np.abs(measured.difference), measured.difference != 0
    assert 0 < moved.mean() < 1
    logged = metrics_of(half)[1]
    assert logged["batching/max"] == pytest.approx(size.max(), rel=1e-6)
    assert logged["batching/std"] == pytest.approx(measured.difference.std(), rel=1e-6)
    assert logged["batching/p95"] == pytest.approx(np.quantile(size, 0.95), rel=1e-6)
    # Seven others in the forward: 7/64 of a nat, and exp(-7/64) = 0.896 is outside the band.
    assert np.abs(size[moved] - 7 / 64).max() < 1e-5
    assert (measured.difference[moved] < 0).all()
    assert logged["batching/outside_band"] == pytest.approx(moved.mean())


def test_as_many_rows_go_together_as_the_budget_has_room_for(tmp_path, monkeypatch):
    real, rows = batching_floor._logp, []

    def counted(state, micro):
        rows.append(len(micro.sample))
        return real(state, micro)

    monkeypatch.setattr(batching_floor, "_logp", counted)
    trained(tmp_path / "runs" / "wide" / "cell", floor=12)
    assert rows == [8, 4, *[1] * 12]
    rows.clear()
    folder = trained(tmp_path / "runs" / "narrow" / "cell", floor=12, packed=20)
    assert set(rows) == {1}
    assert metrics_of(folder)[1]["batching/max"] == 0


def test_measuring_changes_no_other_number(half, tmp_path):
    without = trained(tmp_path / "runs" / "without" / "cell", floor=0)
    assert scan_batching(without).rows == []
    assert records.read(without).equals(records.read(half))
    kept = {
        step: {
            k: v
            for k, v in line.items()
            if not k.startswith(("batching/", "perf/", "time/", "memory/"))
        }
        for step, line in metrics_of(half).items()
    }
    lines = metrics_of(without)
    assert kept == {
        step: {k: v for k, v in line.items() if not k.startswith(("perf/", "time/", "memory/"))}
        for step, line in lines.items()
    }


def test_the_ccdf_draws_it_beside_the_rounding_floor(half):
    frame = load(str(half.parent), strict=False)
    data = ccdf.numbers(frame)
    floor = data[
        (data["arm"] == "batching") & (data["level"] == "token") & (data["side"] == "left")
    ]
    (measured,) = scan_batching(half).rows
    np.testing.assert_allclose(floor["z"], np.exp(7 / 64), rtol=1e-5)
    assert floor["p"].max() == pytest.approx((measured.difference < 0).mean())
    product = data[(data["arm"] == "batching") & (data["level"] == "product")]
    sums = np.bincount(measured.sample.astype(int), measured.difference)
    assert product["z"].max() == pytest.approx(np.exp(-sums.min()), rel=1e-6)
    assert set(product["side"]) == {"left"}
    left = ccdf.sheet(data, looks(frame.cells)).axes[1]
    labels = {line.get_label() for line in left.lines}
    assert "floor: the trainer's own batching" in labels
    assert "floor: float32 rounding" in labels


def test_a_broken_measurement_is_named(half):
    path = half / "batching.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    missing = load(str(half.parent), strict=False).missing
    path.write_bytes(whole)
    assert [item.where for item in missing] == ["cell/batching.npy"]


def test_what_is_written_is_read_and_no_token_makes_no_metric(tmp_path):
    assert scan_batching(tmp_path).rows == []
    write_batching(tmp_path, Batching(np.array([0, 3]), np.array([0.25, -0.5])))
    (found,) = scan_batching(tmp_path).rows
    assert found.sample.tolist() == [0, 3]
    assert found.difference.tolist() == [0.25, -0.5]
    assert floor_metrics(Batching(np.empty(0), np.empty(0))) == {}
