"""Runs are read back from disk: what is in them, what is broken, how they differ."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from reported_runs import make_run

from mibench.api import MibenchError
from mibench.results import difference, differences, open_run


def test_a_run_is_read_back(run_and_floor):
    run, _ = run_and_floor
    assert (run.status, run.attack, run.target, run.dataset) == ("complete", "dmmia", "vgg16@synthfaces", "synthfaces")
    assert (run.protocol, run.seed) == ("toy v2", 0)
    assert [unit.number for unit in run.units] == [0, 1]
    assert run.total("queries_forward") == 200
    assert run.total("seconds") == 3
    assert run.total("joules") is None
    assert list(run.log) == [{"event": "unit", "unit": 0}]  # the line that a crash cut off is left out
    assert run.metrics["acc1"].n == 6
    assert run.metrics["fid"].reason == "FID needs weights"
    assert run.curves["L_ce"].shape == (6, 40)
    assert run.samples["hit1"].dtype == bool


def test_images_are_found_by_unit_and_index(run_and_floor):
    run, _ = run_and_floor
    for row in run.samples.head(20).itertuples():
        image = run.image(row.unit, row.index)
        assert hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() == row.image_sha256


def test_curves_of_different_lengths_are_padded(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "units").mkdir()
    (tmp_path / "run.json").write_text("{}")
    for number, curve in enumerate((torch.ones(2, 3), torch.ones(5))):
        tensors = {"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "labels": torch.zeros(1, dtype=torch.int64)}
        tensors |= {"confidence": torch.zeros(1), "curve.loss": curve}
        save_file(tensors, tmp_path / "units" / f"{number:03d}.safetensors")
    curves = open_run(tmp_path).curves["loss"]
    assert curves.shape == (3, 5)
    assert curves.isnan().sum(dim=1).tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "{not json", "not valid JSON"),
        ("metrics.json", "[]", "JSON object"),
        ("metrics.json", '{"acc1": {"valuee": 1}}', "another version"),
        ("metrics.json", None, "not finished"),
        ("samples.csv", None, "not finished"),
        ("samples.csv", "", "cannot be read as a table"),
        ("samples.csv", "identity,sample\n1,2\n", "no column 'selected'"),
        ("units/000.safetensors", "junk", "cannot be read"),
    ],
)
def test_broken_files_are_told_in_one_line(tmp_path, file, content, message):
    (tmp_path / "units").mkdir()
    (tmp_path / "run.json").write_text("{}")
    if content is not None:
        (tmp_path / file).write_text(content)
    run = open_run(tmp_path)
    with pytest.raises(MibenchError, match=message) as caught:
        _ = run.metrics if file == "metrics.json" else run.samples if file == "samples.csv" else run.units
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(MibenchError, match=r"no run\.json"):
        open_run(tmp_path)


def test_differences_are_paired_and_adjusted(run_and_floor):
    run, floor = run_and_floor
    found = difference(run, floor, "hit1")
    assert found.value == pytest.approx(run.metrics["acc1"].value - floor.metrics["acc1"].value)
    assert found.n == 6
    several = differences(run, floor, ["hit1", "knn_distance"])
    assert all(each.params["p_holm"] >= each.params["p_value"] for each in several)
    assert difference(run, run, "hit1").value == 0


def test_runs_of_other_identities_or_protocols_are_not_compared(run_and_floor, tmp_path):
    run, _ = run_and_floor
    fewer = make_run(tmp_path / "fewer", "dmmia", 0.1, identities=4)
    assert "different identities" in difference(run, fewer).reason
    record = json.loads((fewer.path / "run.json").read_text(encoding="utf-8"))
    record["spec"]["protocol"]["version"] = 3
    (fewer.path / "run.json").write_text(json.dumps(record))
    assert "protocols differ" in difference(run, open_run(fewer.path)).reason
