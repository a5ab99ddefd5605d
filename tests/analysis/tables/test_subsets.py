"""Arms that differ in their layers or site alone stand together and are compared with their reference."""

import json
import re

import pytest
import yaml

from alpkit import analysis
from tests.support.synthetic_grid import ARMS, write_grid


def by_pair(summary):
    return {(f["arm"], f["control"]): f for f in summary["findings"]}


def claims(finding):
    return {claim["topic"]: claim for claim in finding["claims"]}


def set_noise(folder, arm, **noise):
    for path in folder.glob(f"{ARMS.index(arm):02d}*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        alp = {"layers": "all", "site": "layer_input", **noise}
        config["perturbation"] = {**(config["perturbation"] or {}), **alp}
        path.write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """Six arms that become: no noise, all, early, late, and two other sites."""
    root = tmp_path_factory.mktemp("ablation")
    folder = write_grid(root, name="layers", seeds=range(5), steps=20)
    names = {
        "grpo": "alp layers=early",
        "gspo": "alp layers=late",
        "token-tis": "alp site=mlp_output",
        "seq-mis": "alp site=logits",
        "seq-bypass": "seq-bypass",
        "seq-alp": "alp layers=all",
    }
    alp = yaml.safe_load((folder / "0500abcdef/config.yaml").read_text())
    for arm in ("grpo", "gspo", "token-tis", "seq-mis"):
        for path in folder.glob(f"{ARMS.index(arm):02d}*/config.yaml"):
            path.write_text(yaml.safe_dump({**alp, "seed": int(path.parent.name[2:4])}))
    set_noise(folder, "grpo", layers="early")
    set_noise(folder, "gspo", layers="late")
    set_noise(folder, "token-tis", site="mlp_output")
    set_noise(folder, "seq-mis", site="logits")
    manifest = json.loads((folder / "grid.json").read_text())
    for cell in manifest["cells"]:
        cell["arm"] = names[cell["arm"]]
        path = folder / cell["cell_id"] / "cell.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "arm": cell["arm"]}))
    perturbed = [name for name in names.values() if name != "seq-bypass"]
    manifest["controls"] = dict.fromkeys(perturbed, "seq-bypass")
    (folder / "grid.json").write_text(json.dumps(manifest))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alpkit.analysis.report.compose.FIGURES", [])
        return analysis.analyze("layers", root=root)


def test_layer_subsets_and_sites_are_compared_with_their_reference(ablation):
    found = by_pair(ablation.summary)
    for arm in ("alp layers=early", "alp layers=late", "alp site=mlp_output", "alp site=logits"):
        assert (arm, "seq-bypass") in found
        assert (arm, "alp layers=all") in found
    early = found["alp layers=early", "alp layers=all"]
    assert (early["kind"], early["differs"]) == ("layers", ["layers"])
    assert any(limit.startswith("At equal sigma") for limit in early["limits"])
    # alp layers=all carries the planted 0.1; its subsets end that much below.
    assert claims(early)["final performance"]["state"] == "changed"
    assert re.search(r"Final reward -0\.0\d+", claims(early)["final performance"]["words"])
    assert found["alp site=logits", "alp layers=all"]["kind"] == "site"


def test_subset_tables_group_what_differs_in_one_thing(ablation):
    layers = (ablation.folder / "layers.md").read_text()
    rows = [line.split(" | ") for line in layers.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip("| ") for row in rows if not row[0].startswith("| ---")] == [
        "all",
        "early",
        "late",
    ]
    sites = (ablation.folder / "sites.csv").read_text()
    assert "mlp_output" in sites
    assert "logits" in sites
    assert "early" not in sites
