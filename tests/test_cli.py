"""The command line: frozen flags, exit codes, one-line errors, JSON for programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mibench import cli as main_module
from mibench import doctor
from mibench.cli import cli
from mibench.errors import MibenchError
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest

FLAGS = {
    "run": {
        "--attack", "--target", "--dataset", "--protocol", "--prior", "--preset", "--seed", "--set", "--config",
        "--output", "--device", "--precision", "--min-accuracy", "--access", "--jobs", "--allow-changed-code", "--json",
        "--plugin",
    },
    "audit": {
        "--model", "--weights", "--data", "--public", "--size", "--range", "--mean", "--std", "--channel-order",
        "--classes", "--outputs", "--features", "--attack", "--access", "--judge", "--prior", "--identities",
        "--min-accuracy", "--seed", "--fail-on", "--set", "--output", "--device", "--json", "--plugin",
    },
    "sweep": {
        "SUITE", "--dry-run", "--jobs", "--executor", "--address", "--threads", "--timeout", "--retries", "--warm",
        "--output", "--device", "--allow-changed-code", "--json", "--plugin",
    },
    "list": {"KIND", "--json", "--plugin"},
    "show": {"KIND", "NAME", "--json", "--plugin"},
    "score": {"PATH", "--metric", "--show-faces", "--device", "--json", "--plugin"},
    "train": {
        "KIND", "ARCHITECTURE", "--dataset", "--target", "--defence", "--twin", "--tag", "--seed", "--set",
        "--output", "--device", "--precision", "--json", "--plugin",
    },
    "import": {
        "FILES", "--as", "--set", "--source", "--licence", "--reported", "--sha256", "--replace", "--output",
        "--device", "--json",
    },
    "compare": {"RUNS", "--by", "--reference", "--metric", "--mix", "--output", "--paper", "--format", "--json"},
    "doctor": {"--full", "--json"},
    "gate": {
        "RUNS", "--baseline", "--target", "--update-baseline", "--attack", "--max-increase", "--min-accuracy",
        "--max-drop", "--confidence", "--protocol", "--dataset", "--seed", "--set", "--output", "--json", "--junit",
        "--markdown", "--device", "--allow-changed-code", "--plugin",
    },
    "report": {"RUNS", "--output", "--by", "--show-faces", "--set", "--json"},
    "verdicts export": {
        "RUN", "--output", "--people", "--per-person", "--references", "--seed", "--show-faces", "--set", "--json",
    },
    "verdicts import": {"RUN", "ANSWERS", "--json"},
    "view": {"FOLDER", "--port", "--show-faces", "--set"},
    "fetch": {"NAMES", "--list", "--to", "--sha256", "--offline", "--json"},
    "data fixture": {"NAME", "--output", "--people", "--images", "--size", "--seed", "--json"},
    "data preview": {"DATASET", "--people", "--images", "--size", "--show-faces", "--set", "--output"},
    "data verify": {"DATASET", "--root", "--set", "--full", "--json"},
}  # fmt: skip
TOY = ["--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy", "--device", "cpu"]


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_flags_are_frozen() -> None:
    found = {
        name: {
            option
            for parameter in command.params
            for option in (parameter.opts if isinstance(parameter, click.Option) else [str(parameter.name).upper()])
        }
        for name, command in commands(cli).items()
    }
    assert found == FLAGS, "a new flag is a promise: is it needed, and is it in the README?"


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_every_command_has_help_and_examples(name: str) -> None:
    done = call(*name.split(), "--help")
    assert done.exit_code == 0
    assert "Examples" in done.output
    assert f"mibench {name}" in done.output


def test_run_prints_the_floor_beside_the_run(toy: Path, tmp_path: Path) -> None:
    done = call("run", *TOY, "--output", tmp_path)
    assert done.exit_code == 0, done.output
    assert "acc@1" in done.stdout
    assert "the prior alone (floor)" in done.stdout
    again = call("run", *TOY, "--output", tmp_path)
    assert "complete already" in again.stderr
    assert again.stdout == done.stdout


def test_a_run_says_that_its_target_is_not_what_was_published(toy: Path, tmp_path: Path) -> None:
    card = toy / "cards" / "toynet_toyfaces.yaml"
    kept = [line for line in card.read_text().splitlines() if not line.startswith(("measured", "  test_"))]
    doubt = ["reported: {test_accuracy: 0.9116}", "measured: {test_accuracy: 0.4997, agrees_with_reported: false}"]
    card.write_text("\n".join([*kept, *doubt]) + "\n")
    done = call("run", *TOY, "--output", tmp_path)
    assert done.exit_code == 0, done.output
    assert "warning: toynet@toyfaces reached 49.97% where it was measured and its source reports 91.16%" in done.stderr


def test_json_is_json_and_nothing_else(toy: Path, tmp_path: Path) -> None:
    found = json.loads(call("run", *TOY, "--output", tmp_path, "--json").stdout)
    assert found["metrics"]["acc1"]["value"] == 1.0
    assert found["floor"]["floor"] is None
    scored = json.loads(call("score", found["path"], "--device", "cpu", "--json").stdout)
    assert scored["metrics"] == found["metrics"]
    shown = json.loads(call("show", "run", found["path"], "--json").stdout)
    assert shown["status"] == "complete"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--attack", "toyatack"], "unknown attack 'toyatack'; did you mean 'toyattack'?"),
        (["run", *TOY, "--target", "toyjudge"], "'toyjudge' is a judge, it can never be chosen as the target"),
        (["run", *TOY, "--protocol", "toi"], "unknown protocol 'toi'; did you mean 'toy'?"),
        (["run", *TOY, "--preset", "papre"], "unknown preset of attack 'toyattack' 'papre'; did you mean 'paper'?"),
        (["run", *TOY, "--set", "attack.stps=1"], "unknown setting 'attack.stps' from --set; did you mean 'steps'?"),
        (["run", *TOY, "--set", "attack.steps=x"], "attack.steps: input should be a valid integer"),
        (["run", *TOY, "--set", "prior.truncatoin=1"], "did you mean 'truncation'?"),
        (["run", *TOY, "--device", "tpu"], "unknown device 'tpu'"),
        (["run", "--config", "missing.yaml"], "cannot read missing.yaml: No such file or directory"),
        (["score", "nowhere"], "nowhere is not a run directory"),
        (["show", "attac", "x"], "unknown kind 'attac'; did you mean 'attack'?"),
        (["show", "preset", "toyattack"], "name a preset as ATTACK:PRESET"),
        (["show", "card", "toynet"], "unknown card 'toynet'; did you mean 'toynet@toyfaces'"),
        (["list", "atacks"], "unknown kind 'atacks'; did you mean 'attacks'"),
        (["train", "target", "toynett", "--dataset", "toyfaces"], "unknown target 'toynett'; did you mean 'toynet'?"),
        (["train", "victim", "toynet"], "unknown kind of network 'victim'"),
        (["data", "preview", "toyface"], "unknown dataset 'toyface'; did you mean 'toyfaces'?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not done.stdout


def test_missing_data_and_missing_weights_are_both_listed(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "data"))
    done = call("run", *TOY, "--dataset", "celeba")
    assert done.exit_code == 2
    assert "celeba is not complete at" in done.stderr
    assert "identity_CelebA.txt" in done.stderr
    assert "no trained weights for the target 'toynet@celeba'" in done.stderr
    assert all(line.startswith("error: ") for line in done.stderr.splitlines())


def test_a_config_file_is_weaker_than_a_flag(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "attack: toyattack\ntarget: toynet\ndataset: toyfaces\nprotocol: toy\nseed: 3\n"
        "settings: {attack: {steps: 5, learning_rate: 1e-1}}\n"
    )
    done = call("run", "--config", path, "--set", "attack.steps=6", "--output", tmp_path, "--device", "cpu", "--json")
    record = json.loads((Path(json.loads(done.stdout)["path"]) / "run.json").read_text())
    assert record["spec"]["seed"] == 3
    assert record["settings"]["attack.steps"] == {"value": 6, "origin": "--set", "by_user": True}
    assert record["settings"]["attack.learning_rate"] == {
        "value": 0.1,
        "origin": str(path),
        "by_user": True,
    }
    path.write_text("atack: toyattack\n")
    assert "unknown key 'atack'; did you mean 'attack'" in call("run", "--config", path).stderr


def test_a_demanded_metric_without_value_exits_with_1(toy: Path, tmp_path: Path) -> None:
    fid = ("--set", "protocol.metrics=[accuracy, fid]", "--set", "protocol.required=[acc1, fid]")
    done = call("run", *TOY, "--output", tmp_path, *fid)
    assert done.exit_code == 1
    assert "error: the protocol requires fid, which has no value: FID needs" in done.stderr


def test_corrupt_weights_exit_with_2(toy: Path, tmp_path: Path) -> None:
    path = toy / "weights" / "toynet_toyfaces.safetensors"
    path.write_bytes(path.read_bytes()[::-1])
    done = call("run", *TOY, "--output", tmp_path)
    assert done.exit_code == 2
    assert "corrupt or swapped file" in done.stderr


def test_an_output_that_cannot_be_written_exits_with_2(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("run", *TOY, "--output", tmp_path / "file")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "choose another folder with --output" in done.stderr


def test_list_and_show(toy: Path) -> None:
    listed = json.loads(call("list", "--json").stdout)
    assert {row["name"] for row in listed["attacks"]} >= {"toyattack", "floor"}
    assert "toyattack  presets: many, paper, quick, slow" in call("list", "attack").stdout
    assert "toynet@toyfaces" in call("list", "weights").stdout
    assert (
        call("list", "defences").stdout.splitlines()[1]
        == "  none is installed; a catalogue offers them under the kind 'defence'"
    )
    attack = json.loads(call("show", "attack", "toyattack", "--json").stdout)
    assert attack["settings"]["steps"] == 20
    preset = json.loads(call("show", "preset", "toyattack:paper", "--json").stdout)
    assert preset["settings"]["steps"] == {"value": 40, "origin": "preset paper (section 5.1)"}
    card = json.loads(call("show", "card", "toynet@toyfaces", "--json").stdout)
    assert card["classes"] == 6
    assert "identities: 6" in call("show", "protocol", "toy").stdout


def test_doctor_verifies_weights_and_accuracy(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_DISK", 0.0)  # what this machine has is not what is tested
    monkeypatch.setattr(doctor, "total_memory", lambda device: None)
    done = call("doctor", "--full", "--json")
    assert done.exit_code == 0, done.output
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert "sha256 agrees" in findings["toynet@toyfaces"]["detail"]
    assert findings["toynet@toyfaces accuracy"]["detail"] == "1.0000 here, the card says 1.0000"
    path = toy / "weights" / "toygan_toyfaces.safetensors"
    path.write_bytes(b"")
    assert call("doctor").exit_code == 1


def test_preview_draws_people(toy: Path, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "new" / "preview.png"
    done = call("data", "preview", "toyfaces", "--people", 4, "--images", 5, "--size", 32, "--output", path)
    assert done.exit_code == 0, done.output
    with Image.open(path) as picture:
        assert picture.size[0] > 5 * 32
        assert picture.size[1] > (4 + 2) * 32
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_ctrl_c_leaves_with_130(toy: Path, tmp_path: Path) -> None:
    done = call("train", "target", "toynet", "--dataset", "toyfaces", "--set", "train.stop_after=2", "--device", "cpu")
    assert done.exit_code == 130
    assert "repeat the command to continue" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_in_a_shell_leaves_with_130(toy_home: Path, tmp_path: Path) -> None:
    from nursery import start

    process = start("run", *TOY, "--output", tmp_path, "--set", "attack.steps=100000000", home=toy_home)
    try:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("toyattack-*/state.json")):  # the attack itself has begun
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "repeat the command to continue" in errors
    assert "Traceback" not in errors


def test_a_code_page_without_a_character_gets_another_one() -> None:
    code = "from mibench.cli.output import replace_unencodable; replace_unencodable(); print('\\u2265')"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"?", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux")
@pytest.mark.parametrize(
    "words", [[], ["data"], ["list", "--json"], ["show", "protocol", "smoke"], ["--help"], ["--version"]]
)
@pytest.mark.parametrize("columns", ["60", "200"])  # a short text stays in the buffer until the program ends
def test_output_that_is_full_is_one_line(words: list[str], columns: str) -> None:
    with Path("/dev/full").open("w") as full:
        program = [sys.executable, "-c", "from mibench.cli import main; main()", *words]
        plain = {key: value for key, value in os.environ.items() if key not in ("TERM", "FORCE_COLOR")}
        environment = {**plain, "COLUMNS": columns}
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write the output: No space left on device")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize("words", [[], ["list"], ["--help"]])
def test_output_that_nobody_reads_ends_the_program_without_a_word(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-c", "from mibench.cli import main; main()", *words]
    done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


def test_the_name_of_shipped_weights_stays_theirs(home: Path, tmp_path: Path) -> None:
    tiny = ["--set", "train.epochs=1", "--set", "train.width=0.0625", "--device", "cpu"]
    for kind, name in (("target", "vgg16"), ("judge", "facenet112"), ("regressor", "identity"), ("prior", "gmi")):
        for place in ([], ["--output", home]):
            done = call("train", kind, name, *tiny, *place)
            assert done.exit_code == 2
            assert f"'{name}@synthfaces' is the name of weights that mibench ships" in done.stderr
            assert f"`mibench train {kind} {name} --tag mine --set train.epochs=1 " in done.stderr
    assert not home.exists()


def test_whatever_hides_a_shipped_card_is_named(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from mibench.weights import cards

    own = cards.all_cards()["toynet@toyfaces"]
    shipped = replace(own, origin="toyworld", content={**own.content, "notes": "the one that is shipped"})
    monkeypatch.setattr(cards, "shipped_cards", lambda: {shipped.name: shipped})
    first = call("run", *TOY, "--output", tmp_path)
    again = call("run", *TOY, "--output", tmp_path)
    for done in (first, again):
        assert done.exit_code == 0
        said = [line for line in done.stderr.splitlines() if "toynet@toyfaces is your own" in line]
        assert len(said) == 1
        assert "not the one that toyworld ships" in said[0]
    assert "hides the one that toyworld ships" in call("doctor").stdout
    with pytest.raises(MibenchError, match=r"mibench train target toynet --dataset toyfaces --tag NAME"):
        make_plan(
            RunRequest(
                attack="toyattack",
                target="toynet",
                dataset="toyfaces",
                protocol="toy",
                settings={"dataset": {"noise": 0.5}},
            )
        )


def test_doctor_says_that_a_classifier_is_near_chance(toy: Path) -> None:
    card = toy / "cards" / "toyjudge_toyfaces.yaml"
    card.write_text(card.read_text().replace("test_accuracy: 1.0", "test_accuracy: 0.2"))
    done = call("doctor")
    assert done.exit_code == 1
    assert "judge 'toyjudge@toyfaces' gets 20.00% of its test images right" in done.stdout
    assert "runs refuse it" in done.stdout


def test_missing_weights_with_a_tag_are_trained_with_the_tag(toy: Path) -> None:
    assert (
        "train them with `mibench train target toynet --dataset toyfaces --tag mine`"
        in call("run", *TOY[:2], "--target", "toynet+mine", *TOY[4:]).stderr
    )


def test_a_bug_is_told_from_what_a_command_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 is a verdict of the gate: a traceback must not read as one."""

    def broken(**_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(main_module.cli.commands["doctor"], "callback", broken)
    monkeypatch.setattr(sys, "argv", ["mibench", "doctor"])
    for name in ("wait_briefly", "replace_unencodable", "intercept_os_exit", "listen", "leave_at_once"):
        monkeypatch.setattr(main_module, name, lambda: None)
    monkeypatch.setattr(main_module.atexit, "register", lambda _: None)
    with pytest.raises(SystemExit) as ended:
        main_module.main()
    assert ended.value.code == 70
    assert "RuntimeError: a bug" in capsys.readouterr().err
