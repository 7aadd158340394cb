"""What would end a run after its floor or its attack is refused before either begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_engine import toy_run

from mibench.errors import MibenchError


def test_changed_code_is_refused_before_the_floor_is_made_again(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path)
    assert found.floor is not None
    record = json.loads((found.path / "run.json").read_text())
    record["code"]["attack toyattack"] = "0" * 64
    (found.path / "run.json").write_text(json.dumps(record))
    (found.floor.path / "metrics.json").unlink()
    with pytest.raises(MibenchError, match="attack toyattack changed since"):
        toy_run(tmp_path)
    assert not (found.floor.path / "metrics.json").exists()


@pytest.mark.parametrize("network", ["toyjudge", "toyregressor"])
@pytest.mark.parametrize("damage", ["gone", "swapped"])
def test_what_scoring_needs_is_looked_at_before_anything_is_attacked(
    toy: Path, tmp_path: Path, network: str, damage: str
) -> None:
    (file,) = (toy / "weights").glob(f"{network}_*.safetensors")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"another" + file.read_bytes())
    with pytest.raises(MibenchError, match=f"weights of '{network}@toyfaces' (cannot be read|are not the ones)"):
        toy_run(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_attacked(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MibenchError, match=r"cannot write .*: Not a directory"):
        toy_run(tmp_path / "file" / "runs")
    assert (tmp_path / "file").read_text() == "in the way"
