"""The workflows of docs/ci.md: their steps are commands that exist, and run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from mibench.cli import cli
from mibench.weights.cards import find
from mibench.weights.load import load_weights

PAGE = (Path(__file__).parent.parent / "docs" / "ci.md").read_text(encoding="utf-8")


def workflow(title: str) -> dict:
    match = re.search(rf"## {title}\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert match, title
    return yaml.safe_load(match[1])


def steps() -> dict[str, list[str]]:
    """Workflow -> its shell commands."""
    github, gitlab = workflow("GitHub Actions"), workflow("GitLab CI")
    return {
        "GitHub Actions": [step["run"] for step in github["jobs"]["gate"]["steps"] if "run" in step],
        "GitLab CI": gitlab["privacy gate"]["script"],
    }


@pytest.mark.parametrize("name", ["GitHub Actions", "GitLab CI"])
def test_every_step_is_a_command_with_flags_that_exist(name):
    commands = [shlex.split(step) for step in steps()[name]]
    assert [command[0] for command in commands] == ["pip", "mibench", "mibench"]
    for _, subcommand, *arguments in commands[1:]:
        known = {option for parameter in cli.commands[subcommand].params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("--")} <= known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GitHub Actions", "GitLab CI"])
def test_the_steps_run(name, tmp_path, monkeypatch):
    """With the protocol smoke, whose three people decide nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    torch.save(load_weights(find("target", "vgg16", "synthfaces")), "model.pth")

    def call(*arguments: str) -> int:
        return CliRunner().invoke(cli, list(arguments), catch_exceptions=False).exit_code

    made = ["gate", "--update-baseline", "--baseline", "leak.json", "--target", "vgg16", "--protocol", "smoke"]
    assert call(*made, "--attack", "ppa") == 0
    for step in steps()[name][1:]:
        arguments = shlex.split(step.replace("$GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md")))[1:]
        assert call(*arguments) == (3 if arguments[0] == "gate" else 0)
    assert Path("gate.json").is_file()
    assert Path("gate.xml").is_file()
