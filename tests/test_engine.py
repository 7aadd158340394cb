"""The whole path in the toy world: attack, store, judge, draw, resume, refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerator import an_accelerator  # noqa: F401
from toyworld.build import write_world
from toyworld.data import ToyFaces

import mibench
from mibench.api import AccessError, MibenchError
from mibench.results import StoredRun
from mibench.runs import run as runner

TOY = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}


def toy_run(out: Path, attack: str = "toyattack", **options: object) -> StoredRun:
    return mibench.run(attack, **TOY, out=out, device="cpu", **options)  # type: ignore[arg-type]


def result_files(folder: Path) -> dict[str, bytes]:
    """Every file that must not depend on interruptions."""
    skipped = {"run.json", "log.jsonl", ".lock", "state.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skipped and not (path.parent.name == "units" and path.suffix == ".json")
    }


def test_a_run_beats_its_floor_and_fills_its_folder(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path / "runs")
    assert found.floor is not None
    assert found.metrics["acc1"].value == 1.0 > found.floor.metrics["acc1"].value
    assert found.path.name.startswith("toyattack-toynet-toyfaces-")
    record = json.loads((found.path / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["settings"]["attack.steps"] == {
        "value": 12,
        "origin": "preset quick (ours)",
        "by_user": False,
    }
    assert record["settings"]["attack.samples"]["origin"] == "default"
    assert record["floor"] == found.floor.path.name
    stems = {path.name for path in (found.path / "units").iterdir()}
    assert stems == {f"00{i}{suffix}" for i in range(3) for suffix in (".safetensors", ".json")}
    assert (found.path / "tables" / "toy.csv").read_text().splitlines()[0] == "toyattack,1.0"


def test_images_are_the_stored_pixels(toy: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from mibench.results import open_run

    run = open_run(toy_run(tmp_path).path)
    best = run.samples[(run.samples["identity"] == 4) & run.samples["selected"]].sort_values("sample")
    with Image.open(run.path / "images" / "0004.png") as opened:
        strip = np.array(opened)
    assert strip.shape == (8, 2 * 8, 3)
    for column, (unit, index) in enumerate(zip(best["unit"], best["index"], strict=True)):
        stored = run.image(unit, index).permute(1, 2, 0).numpy()
        assert (strip[:, 8 * column : 8 * column + 8] == stored).all()


def test_the_same_command_does_nothing_twice(toy: Path, tmp_path: Path) -> None:
    first = toy_run(tmp_path)
    before = (first.path / "run.json").read_bytes()
    again = toy_run(tmp_path)
    assert again.reused
    assert again.path == first.path
    assert (first.path / "run.json").read_bytes() == before


def test_the_digest_follows_settings_that_change_results_and_no_others(toy: Path, tmp_path: Path) -> None:
    names = {
        name: toy_run(tmp_path, **options).path.name  # type: ignore[arg-type]
        for name, options in {
            "plain": {},
            "said": {"settings": {"attack.steps": 12}},  # what the preset says anyway
            "seed": {"seed": 1},
            "steps": {"settings": {"attack.steps": 13}},
            "prior": {"settings": {"prior.truncation": 0.9}},
        }.items()
    }
    assert names["plain"] == names["said"]
    assert len(set(names.values())) == 4


def test_config_yaml_repeats_the_run(toy: Path, tmp_path: Path) -> None:
    changed = {"attack": {"steps": 15}, "protocol": {"identities": 4}, "prior": {"truncation": 0.8}}
    first = toy_run(tmp_path / "a", settings=changed)
    again = mibench.run(config=first.path / "config.yaml", out=tmp_path / "b", device="cpu")
    assert again.path.name == first.path.name
    assert result_files(again.path) == result_files(first.path)


def test_a_changed_protocol_says_so(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path, settings={"protocol.identities": 2})
    record = json.loads((found.path / "run.json").read_text())
    assert record["spec"]["protocol"]["name"] == "toy (changed)"


@pytest.mark.parametrize("damage", ["truncated", "changed", "removed", "sidecar"])
def test_a_damaged_unit_is_made_again(toy: Path, tmp_path: Path, damage: str) -> None:
    found = toy_run(tmp_path)
    expected = result_files(found.path)
    unit = found.path / "units" / "001.safetensors"
    content = unit.read_bytes()
    if damage == "truncated":
        unit.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        unit.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "removed":
        unit.unlink()
    else:
        unit.with_suffix(".json").write_text('{"sha256"')
    (found.path / "metrics.json").unlink()
    again = toy_run(tmp_path)
    assert not again.reused
    assert result_files(again.path) == expected


FILES = ("units/000.safetensors", "units/000.json", "state.safetensors", "samples.csv")
SEEN = [  # each file once in the default suite, in turn of the run and of its floor
    pytest.param(whose, file, marks=[] if (place + (whose == "floor")) % 2 == 0 else [pytest.mark.slow])
    for whose in ("run", "floor")
    for place, file in enumerate(FILES)
]


@pytest.mark.parametrize(("whose", "file"), SEEN)
def test_a_complete_run_is_not_believed_unseen(toy: Path, tmp_path: Path, file: str, whose: str) -> None:
    found = toy_run(tmp_path)
    assert found.floor is not None
    folder = found.path if whose == "run" else found.floor.path
    expected = result_files(folder)
    damaged = folder / file
    content = bytearray(damaged.read_bytes())
    content[-20] ^= 1
    damaged.write_bytes(content)
    again = toy_run(tmp_path)
    part = again if whose == "run" else again.floor
    assert part is not None
    assert not part.reused
    assert result_files(folder) == expected
    assert toy_run(tmp_path).reused


def test_a_metric_whose_code_changed_is_computed_again(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mibench.runs import run

    metric = {"settings": {"protocol": {"metrics": ["default", "brightness"]}}}
    first = toy_run(tmp_path, **metric)
    assert toy_run(tmp_path, **metric).reused
    hash_of = run.code_hash
    for module in ("mibench.metrics.prdc", "toyworld.metrics"):
        with monkeypatch.context() as changed:
            changed.setattr(
                run, "code_hash", lambda name, *root, m=module: "other" if name == m else hash_of(name, *root)
            )
            again = toy_run(tmp_path, **metric)
            assert again.path == first.path
            assert not again.reused, module
            assert toy_run(tmp_path, **metric).reused


def test_units_in_each_others_place_are_not_scored(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path)
    for suffix in (".safetensors", ".json"):
        first, second = (found.path / "units" / f"{number}{suffix}" for number in ("000", "001"))
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    with pytest.raises(MibenchError, match=r"000\.safetensors does not hold the reconstructions of identities 0 to 1"):
        toy_run(tmp_path)


class _Cut(BaseException):
    """The process ends here, as by SIGKILL: nobody catches it."""


def test_a_run_that_is_cut_off_at_each_of_its_writes_ends_with_the_same_bytes(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacking, scoring, drawing and the last word of run.json: the first process gets to its first write, ..."""
    expected = result_files(toy_run(tmp_path / "whole").path)
    replace, cuts, left = Path.replace, 0, 0

    def until(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise _Cut
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", until)
        while cuts < 100:
            left = cuts
            try:
                found = toy_run(tmp_path / "cut")
            except _Cut:
                cuts += 1
            else:
                break
    assert cuts > 5
    assert result_files(found.path) == expected
    assert toy_run(tmp_path / "cut").reused


def test_a_copy_of_a_run_is_a_run(toy: Path, tmp_path: Path) -> None:
    import shutil

    found = toy_run(tmp_path / "runs")
    shutil.copytree(tmp_path / "runs", tmp_path / "copy")
    assert toy_run(tmp_path / "copy").reused
    shutil.rmtree(tmp_path / "runs")
    copied = tmp_path / "copy" / found.path.name
    before = result_files(copied)
    assert runner.rescore(copied, "cpu").path == copied
    assert result_files(copied) == before


def test_a_run_that_was_moved_without_its_floor_says_so(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path / "runs")
    assert found.floor is not None
    (tmp_path / "elsewhere").mkdir()
    moved = found.path.rename(tmp_path / "elsewhere" / "renamed")
    with pytest.raises(
        MibenchError, match=rf"floor run {found.floor.path.name} of .* is missing from .*; copy it there"
    ):
        runner.rescore(moved, "cpu")
    found.floor.path.rename(moved.parent / found.floor.path.name)
    before = result_files(moved)
    runner.rescore(moved, "cpu")
    assert result_files(moved) == before


def test_results_name_no_folder_of_this_machine(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path, settings={"protocol": {"metrics": ["accuracy", "knn-distance", "fid"]}})
    for name, content in result_files(found.path).items():
        assert str(tmp_path).encode() not in content, name
        assert str(toy).encode() not in content, name
    assert "$MIBENCH_HOME/assets" in found.metrics["fid"].reason


@pytest.mark.parametrize(("kind", "name"), [("target", "toynet"), ("judge", "toyjudge")])
def test_a_classifier_near_chance_is_refused_unless_min_accuracy_allows_it(
    toy: Path, tmp_path: Path, kind: str, name: str
) -> None:
    card = toy / "cards" / f"{name}_toyfaces.yaml"
    card.write_text(card.read_text().replace("test_accuracy: 1.0", "test_accuracy: 0.2"))
    with pytest.raises(MibenchError, match=rf"{kind} '{name}@toyfaces' gets 20\.00% .*33\.33% is the least"):
        toy_run(tmp_path)
    assert not list(tmp_path.glob("*/run.json"))
    found = toy_run(tmp_path, min_accuracy=0)
    assert "min_accuracy: 0" in (found.path / "config.yaml").read_text()
    assert found.floor is not None
    runner.rescore(found.path, "cpu")  # what it was told once it knows
    with pytest.raises(MibenchError, match=r"90\.00% is the least"):
        toy_run(tmp_path, min_accuracy=0.9)


def test_units_do_not_depend_on_which_came_before(toy: Path, tmp_path: Path) -> None:
    whole = toy_run(tmp_path / "whole")
    part = toy_run(tmp_path / "part", settings={"protocol": {"identities": 2, "first_identity": 4}})
    first = (whole.path / "units" / "002.safetensors").read_bytes()
    second = (part.path / "units" / "000.safetensors").read_bytes()
    header = 8 + int.from_bytes(first[:8], "little")  # the headers differ in the unit's number
    assert first[header:] == second[8 + int.from_bytes(second[:8], "little") :]


def test_changed_code_is_refused_unless_allowed(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path)
    record_path = found.path / "run.json"
    record = json.loads(record_path.read_text())
    now = dict(record["code"])
    before = {**now, "attack toyattack": "0" * 64}
    record |= {"code": before, "code_history": [before]}  # as other code leaves a run that lacks a unit
    record_path.write_text(json.dumps(record))
    (found.path / "units" / "001.safetensors").unlink()
    (found.path / "metrics.json").unlink()
    with pytest.raises(MibenchError, match="attack toyattack changed since"):
        toy_run(tmp_path)
    toy_run(tmp_path, allow_changed_code=True)
    after = json.loads(record_path.read_text())
    assert after["code"] == now
    assert after["code_history"] == [before, now]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"images of another shape: expected \(4, 3, 8, 8\), got \(4, 3, 4, 4\)|expected \(12"),
        ("labels", "labels that are not in the unit"),
        ("nan", "not finite"),
        ("few", "too few images of identity 5: expected at least 2"),
    ],
)
def test_an_attack_that_returns_nonsense_is_refused(toy: Path, tmp_path: Path, fault: str, message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        toy_run(tmp_path, "badattack", settings={"attack.fault": fault})
    (folder,) = tmp_path.glob("badattack-*")
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"


def test_an_attack_gets_the_access_it_declared_and_no_more(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="grants LABELS, the attack asked for GRADIENTS"):
        toy_run(tmp_path, "badattack")


def test_a_protocol_may_grant_less_than_an_attack_needs(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"needs gradients, this run grants scores.* or --access gradients"):
        toy_run(tmp_path, settings={"protocol.access": "scores"})
    assert not list(tmp_path.glob("toyattack-*"))


def test_a_bug_in_an_attack_is_recorded_and_raised(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match=r"'badattack' raises ValueError: a bug in the attack \(toyworld/attacks.py"):
        toy_run(tmp_path, "badattack", settings={"attack.fault": "bug"})
    (folder,) = tmp_path.glob("badattack-*")
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"] == "ValueError: a bug in the attack"


def test_running_out_of_memory_halves_the_batch_and_counts_queries_once(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path, "badattack", settings={"attack.fault": "memory"})
    sidecar = json.loads((found.path / "units" / "000.json").read_text())
    assert sidecar["micro_batch"] == 4
    from mibench.runs.store import RunDir

    _, facts = RunDir(found.path).load("units/000")
    assert facts["queries_forward"] == 12


def test_shared_identities_are_refused(toy: Path, tmp_path: Path) -> None:
    write_world(toy, ToyFaces(overlap=True))
    with pytest.raises(MibenchError, match="both private and public"):
        toy_run(tmp_path, settings={"dataset.overlap": True})
    assert not list(tmp_path.glob("*/units"))


def test_weights_of_another_world_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match="trained on another version of toyfaces"):
        toy_run(tmp_path, settings={"dataset.noise": 0.5})


def test_too_many_identities_are_refused(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match=r"attacks identities 0 to 6, toyfaces has 6"):
        toy_run(tmp_path, settings={"protocol.identities": 7})


def test_a_demanded_metric_without_a_value_is_reported(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path, settings={"protocol": {"metrics": ["accuracy", "fid"], "required": ["acc1", "fid"]}})
    assert set(found.missing) == {"fid"}
    assert "MIBENCH_INCEPTION" in found.missing["fid"]


def test_rescoring_gives_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path)
    expected = result_files(found.path)
    (found.path / "samples.csv").unlink()
    (found.path / "metrics.json").unlink()
    runner.rescore(found.path, "cpu")
    assert result_files(found.path) == expected
    assert toy_run(tmp_path).reused


def test_rescoring_needs_every_unit(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path)
    (found.path / "units" / "000.safetensors").unlink()
    with pytest.raises(MibenchError, match=r"unit 0 of .* is missing or damaged"):
        runner.rescore(found.path, "cpu")


def test_precision_bfloat16_is_another_run(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path, precision="bfloat16")
    assert found.path.name != toy_run(tmp_path).path.name
    assert found.metrics["acc1"].value is not None


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gpu_agrees_with_the_cpu(accelerator: torch.device, toy: Path, tmp_path: Path, precision: str) -> None:
    names = {"attack": "toyattack", **TOY, "precision": precision}
    here = mibench.run(**names, out=tmp_path / "cpu", device="cpu")  # type: ignore[arg-type]
    there = mibench.run(**names, out=tmp_path / "there", device=str(accelerator))  # type: ignore[arg-type]
    assert there.path.name == here.path.name
    assert there.metrics["acc1"].value == pytest.approx(here.metrics["acc1"].value, abs=0.1)
    assert there.metrics["knn_distance"].value == pytest.approx(here.metrics["knn_distance"].value, abs=0.02)
