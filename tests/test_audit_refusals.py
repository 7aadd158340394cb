"""What an audit refuses before it trains a judge or a prior."""

from __future__ import annotations

from pathlib import Path

import pytest
from audited import GMI, TINY, call, model

from mibench.audits.request import AuditRequest
from mibench.errors import MibenchError

BIT = [*TINY[:-4], *TINY[-2:]]  # without protocol.metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "protocol.metrics=[acuracy]"], "unknown metric 'acuracy'; did you mean 'accuracy'?"),
        (
            ["--set", "protocol.metrics=[accuracy]"],
            "demands knn_distance, feature_distance, which its metrics leave out",
        ),
        (["--set", "protocol.required=[acc2]"], "protocol.required: unknown estimate 'acc2'; did you mean 'acc5'?"),
        (["--set", "protocol.query_budget=3"], "protocol 'audit (changed) v1' allows 3"),
        (["--set", "protocol.sample=3"], "unknown setting 'protocol.sample'"),
        (["--set", "protocol.first_identity=3"], "attacks identities 3 to 3, folder has 3"),
        (["--set", "attack.iteration=3"], "unknown setting 'attack.iteration'"),
        (["--set", "attack.momentum=3"], "gmi: momentum must lie in [0, 1), got 3.0"),
        (["--set", "prior.truncation=0.5"], "unknown setting 'prior.truncation'"),
        (["--set", "prior_training.penalty=-1"], "train.penalty must be finite and not negative, got -1.0"),
        (["--set", "prior_training.stepps=3"], "unknown setting 'train.stepps'"),
        (["--set", "prior_training.critic_steps=0"], "train.critic_steps must be at least 1, got 0"),
        (["--set", "judge_training.learning_rate=-1"], "learning_rate must be a positive number, got -1.0"),
        (["--prior", "gmmi"], "unknown prior 'gmmi'; did you mean 'gmi'?"),
        (["--prior", "gmi@folder+gone"], "no trained weights for the prior 'gmi@folder+gone'"),
        (["--judge", "facenet112+gone"], "no trained weights for the judge 'facenet112@folder+gone'"),
        (["--seed", str(2**63)], "seed must be a whole number from 0 to 2**63 - 1"),
        (["--output", "own_colours.py"], "cannot write own_colours.py: Not a directory"),
        (["--output", "w.safetensors/runs"], "cannot write w.safetensors/runs: Not a directory"),
    ],
)
def test_what_the_run_would_refuse_is_refused_before_anything_is_trained(
    place: Path, home: Path, arguments: list[str], message: str
) -> None:
    done = call(*model(*GMI), *BIT, *arguments)
    assert done.exit_code == 2, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "is trained on" not in done.stderr
    assert not Path("runs").exists()
    assert not (home / "training").exists()


def test_an_attack_on_styles_is_refused_a_prior_without_them_before_it_is_trained(place: Path) -> None:
    done = call(*model("--attack", "ppa", "--prior", "gmi"), *TINY)
    assert done.exit_code == 2
    assert "attack 'ppa' needs a prior with a mapping network, 'gmi' has none" in done.stderr
    assert "is trained on" not in done.stderr


def test_too_few_public_images_for_a_batch_are_refused_before_the_judge_is_trained(place: Path) -> None:
    options = [text for text in TINY if text != "prior_training.batch_size=8"]
    options.pop(options.index("prior_training.steps=2") + 1)
    done = call(*model(*GMI), *options)
    assert done.exit_code == 2
    assert "20 public images are fewer than train.batch_size=32; lower it" in done.stderr
    assert "is trained on" not in done.stderr


def test_scopes_are_checked_from_python_too(place: Path) -> None:
    with pytest.raises(MibenchError, match="unknown scope of settings 'judge'; did you mean 'judge_training'"):
        AuditRequest(model="own_colours:build", settings={"judge": {}})
