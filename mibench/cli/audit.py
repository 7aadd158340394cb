"""``mibench audit``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import rich_click as click

from mibench.system.stdout_guard import stdout_to_stderr

from .examples import CommandWithExamples
from .options import access_option, device_option, json_option, output_option, plugin_option, set_option
from .prose import say


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench audit --model mynet:build --weights w.safetensors --data people --public strangers --size 64
  mibench audit --model mynet:build --weights w.pth --data people --public strangers --size 112 --range -1,1
  mibench audit --model model.onnx --data people --public strangers --mean 0.5 --std 0.5
  mibench audit --model mynet:build --weights w.safetensors --data people --size 64 --attack gmi --identities 20
  mibench audit --model model.onnx --data people --public strangers --fail-on undecided

The data folder has one directory per person; public images are in its public/ or in the --public folder.
""",
)
@click.option(
    "--model", required=True, metavar="MODEL", help="package.module:build, an ONNX file or a TorchScript file."
)
@click.option("--weights", type=click.Path(path_type=Path), help="Weights for a model in code: safetensors or torch.")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder with one directory per person.")
@click.option("--public", type=click.Path(path_type=Path), help="Folder of images of other people.")
@click.option("--size", type=int, metavar="PIXELS", help="Side of the model's input images.")
@click.option(
    "--range",
    "limits",
    metavar="LOW,HIGH",
    help="Pixel values of black and white, before mean and std.  [default: 0,1]",
)
@click.option("--mean", metavar="M[,M,M]", help="Subtracted after --range, in the model's channel order.")
@click.option("--std", metavar="S[,S,S]", help="Divisor after subtracting the mean.")
@click.option(
    "--channel-order",
    type=click.Choice(["rgb", "bgr"]),
    default="rgb",
    show_default=True,
    help="Channel order of the model's input.",
)
@click.option(
    "--classes", metavar="FILE", help="The model's class order: a file with one name per line, imagefolder, or sorted."
)
@click.option(
    "--outputs", metavar="ROLE,...", help="What the model returns, in order: features, logits, probabilities, other."
)
@click.option("--features", metavar="LAYER", help="Layer whose output (input:LAYER: whose input) gives the features.")
@click.option("--attack", metavar="NAME", help="The attack.  [default: ppa; mirror-b with scores, floor with labels]")
@access_option
@click.option("--judge", metavar="NAME", help="An existing judge.  [default: one trained on the data]")
@click.option("--prior", metavar="NAME", help="An existing prior, or the architecture to train on the public images.")
@click.option("--identities", type=click.IntRange(min=1), help="Number of people to attack.  [default: all, up to 50]")
@click.option(
    "--min-accuracy", type=float, metavar="SHARE", help="Minimum accuracy of the model.  [default: twice chance]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Random seed.")
@click.option(
    "--fail-on",
    type=click.Choice(["leak", "undecided"]),
    help="Exit 1 when it leaks; with undecided also 3 when nothing is decided.  [default: exit 0]",
)
@set_option("model, dataset, judge_training, prior_training, prior, attack, protocol")
@output_option("runs", "Folder of run directories.")
@device_option
@plugin_option
@json_option
@click.pass_context
def audit(
    ctx: click.Context,
    *,
    model: str,
    weights: Path | None,
    data: Path,
    public: Path | None,
    size: int | None,
    limits: str | None,
    mean: str | None,
    std: str | None,
    channel_order: Literal["rgb", "bgr"],
    classes: str | None,
    outputs: str | None,
    features: str | None,
    attack: str | None,
    access: str | None,
    judge: str | None,
    prior: str | None,
    identities: int | None,
    min_accuracy: float | None,
    seed: int,
    fail_on: Literal["leak", "undecided"] | None,
    assignments: tuple[str, ...],
    output: Path,
    device: str,
    as_json: bool,
) -> None:
    """Audit your own model: check its preprocessing, attack it, say whether the model itself leaks.

    The first line is the verdict: LEAKS, NOT SEEN or UNDECIDED, with the number that decides.

    The model's accuracy is measured first. A judge and a prior are trained on your images unless you name existing
    ones. Every step is stored: repeat the command to continue where it stopped. Models in code and TorchScript files
    are executed: do not use them from a source you do not trust.
    """
    from mibench.audits.evidence_page import PAGE as EVIDENCE_PAGE
    from mibench.audits.request import SCOPES, numbers
    from mibench.audits.verdicts import EXIT_CODES
    from mibench.commands import audit as audit_model
    from mibench.settings import parse_assignments

    from .progress import reporter

    result = stdout_to_stderr()(audit_model)(
        model,
        weights=weights,
        data=data,
        public=public,
        size=size,
        range=numbers(limits, "--range"),
        mean=numbers(mean, "--mean"),
        std=numbers(std, "--std"),
        channel_order=channel_order,
        classes=classes,
        outputs=tuple(role.strip() for role in (outputs or "").split(",") if role.strip()),
        features=features or "",
        attack=attack,
        access=access,
        judge=judge,
        prior=prior,
        identities=identities,
        min_accuracy=min_accuracy,
        seed=seed,
        settings=parse_assignments(assignments, SCOPES),
        out=output,
        device=device,
        reporter=reporter(),
    )
    if as_json:
        click.echo(json.dumps({"path": str(result.path), **result.findings.as_json()}, indent=2))
    else:
        for line in (*result.findings.lines(), ""):
            say(line)
        say(f"numbers: {result.path}")
        say(f"evidence to forward: {result.path.with_name(EVIDENCE_PAGE)}")
        say(f"tables and figures: {result.run.path}")
    for name, reason in result.run.missing.items():
        say(f"error: the protocol requires {name}, which has no value: {reason}", err=True)
    if fail_on is not None:  # 1 means a leak then, so that a missing number is undecided, as it is to a gate
        ctx.exit(result.exit_code(fail_on) or (EXIT_CODES["undecided"] if result.run.missing else 0))
    if result.run.missing:
        ctx.exit(1)
