"""Signs of masking in a matrix of defences: a classifier that only hides is flagged, an honest one is not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from comparable_runs import SAMPLES, edit, read
from defended_runs import LEAKS, attack_on
from safetensors.torch import load_file, save_file
from untouched import untouched

from mibench.metrics import estimates
from mibench.metrics.declared import built_in_infos
from mibench.metrics.scoring import estimate_as_json
from mibench.reports.compare_defences import PrintedMatrix, compare_defences
from mibench.reports.latex import LAYOUTS, width
from mibench.reports.masking import CHECKS, MEASURE
from mibench.reports.matrix_tables import matrix_table
from mibench.results import open_run, own_loss_fell, per_identity, white_box

BLACK, WHITE = "mirror-b", "mirror-w"
PEOPLE = 24
HONEST = {"norm": 0.5, "cosine": 1.0, "flat": 0.0}
LEVELS = {  # tag -> level of the white box, of the black box, gradients, whether the white box's loss fell
    "": (0.7, 0.6, HONEST, True),
    "weak": (0.7, 0.6, HONEST, True),  # a defence that does nothing
    "strong": (0.3, 0.2, {**HONEST, "norm": -1.0}, True),  # leaks less to both
    "veil": (0.1, 0.6, {"norm": -8.0, "cosine": 0.1, "flat": 0.9}, False),  # only hides
}


def gradients(run: Path, norm: float, cosine: float, flat: float) -> None:
    """Add the metrics of the attacked model, each with a little spread over identities."""
    table = pd.read_csv(run / "samples.csv")
    spread = 0.01 * np.random.default_rng(7).normal(size=PEOPLE)[table["identity"]]
    table["log_gradient_norm_public"] = norm + spread
    table["gradient_cosine"] = np.minimum(cosine + spread, 1.0)
    table["flat_confident"] = (np.arange(len(table)) % 10 < 10 * flat).astype(float)
    table.to_csv(run / "samples.csv", index=False)
    stored = json.loads((run / "metrics.json").read_text())
    for name in ("log_gradient_norm_public", "gradient_cosine", "flat_confident"):
        share = built_in_infos()[name].proportion
        mean = estimates.mean(name, table[name].to_numpy(), table["identity"].to_numpy(), proportion=share)
        stored[name] = estimate_as_json(mean)
    (run / "metrics.json").write_text(json.dumps(stored))


def curve(run: Path, fell: bool) -> None:
    """Give a unit the loss of its identities."""
    file = run / "units" / "000.safetensors"
    noise = 0.05 * torch.randn(PEOPLE, 50, generator=torch.Generator().manual_seed(4))
    steps = torch.linspace(1.0, 0.1 if fell else 1.0, 50) + noise
    save_file({**load_file(file), "curve.loss": steps}, file, metadata={"mibench": "{}"})


def cell(folder: Path, tag: str, attack: str, *, measured: bool = True, seed: int = 0, **spec: Any) -> Path:
    white, black, of_model, fell = LEVELS[tag]
    run = attack_on(folder / f"{attack}-{tag}-{seed}", tag, attack, white if attack == WHITE else black, seed, **spec)
    if measured:
        gradients(run, **of_model)
    if attack == WHITE:
        curve(run, fell)
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pair and a floor on every classifier of :data:`LEVELS`; shared, so tests do not write into it."""
    folder = tmp_path_factory.mktemp("masking")
    for tag in LEVELS:
        for attack in (WHITE, BLACK):
            cell(folder, tag, attack)
    attack_on(folder / "floor", "", "floor", 0.05)
    with untouched(folder):
        yield folder


@pytest.fixture(scope="module")
def matrix(folder: Path) -> PrintedMatrix:
    return compare_defences(folder)


def row(matrix: PrintedMatrix, tag: str):
    return next(each for each in matrix.rows if each.card == "vgg16@synthfaces" + (f"+{tag}" if tag else ""))


def check(matrix: PrintedMatrix, tag: str, name: str):
    return next(each for each in row(matrix, tag).masking.checks if each.name == name)


def values(folder: Path, tag: str, attack: str, metric: str = "acc1") -> np.ndarray:
    return per_identity(open_run(folder / f"{attack}-{tag}-0"), metric).to_numpy()


# ---------------------------------------------------------------- verdicts


def test_what_only_hides_is_flagged_and_what_leaks_less_is_not(matrix):
    assert row(matrix, "").masking is None
    assert row(matrix, "weak").masking.verdict == "no sign"
    assert row(matrix, "strong").masking.verdict == "no sign"
    assert row(matrix, "veil").masking.verdict == f"sign: {', '.join(CHECKS)}"


def test_a_gap_that_shrinks_because_both_get_less_is_no_sign(tmp_path):
    for tag, attack, level in (("", WHITE, 0.9), ("", BLACK, 0.35), ("veil", WHITE, 0.1), ("veil", BLACK, 0.0)):
        attack_on(tmp_path / f"{attack}-{tag}", tag, attack, level)
    found = check(compare_defences(tmp_path), "veil", "black box")
    excess = found.estimates["difference of differences"]
    assert excess.low > 0
    assert float(excess.params["p_value"]) < 0.01
    assert found.estimates["gap"].value <= 0
    assert found.sign is False


def test_the_difference_of_differences_is_that_of_numpy(matrix, folder):
    from scipy.stats import t

    found = check(matrix, "veil", "black box")
    gap = values(folder, "veil", BLACK) - values(folder, "veil", WHITE)
    on_twin = values(folder, "", BLACK) - values(folder, "", WHITE)
    excess = found.estimates["difference of differences"]
    across = gap - on_twin
    assert found.estimates["gap"].value == pytest.approx(gap.mean())
    assert found.estimates["gap on the twin"].value == pytest.approx(on_twin.mean())
    assert excess.value == pytest.approx(across.mean())
    assert excess.n == PEOPLE
    half = t.ppf(0.975, PEOPLE - 1) * across.std(ddof=1) / math.sqrt(PEOPLE)
    assert excess.low == pytest.approx(across.mean() - half, abs=0.02)  # made to agree with the sign-flip test
    assert excess.high == pytest.approx(across.mean() + half, abs=0.02)
    signs = np.random.default_rng(1).choice([-1, 1], size=(20_000, PEOPLE))
    extreme = np.abs((signs * across).mean(axis=1)) >= abs(across.mean()) - 1e-12
    assert float(excess.params["p_value"]) == pytest.approx(extreme.mean(), abs=0.01)
    assert found.p_value == max(matrix_p(found, "gap"), matrix_p(found, "difference of differences"))


def matrix_p(found, name: str) -> float:
    return float(found.estimates[name].params["p_value"])


def test_holm_covers_the_black_boxes_and_leaves_the_other_family_alone(matrix, folder):
    assert matrix.masking_family == 3
    assert matrix.family == 3 * 2  # rows but the twin, attacks but the floor
    p_values = [check(matrix, tag, "black box").p_value for tag in ("weak", "strong", "veil")]
    adjusted = [check(matrix, tag, "black box").p_holm for tag in ("weak", "strong", "veil")]
    assert adjusted[int(np.argmin(p_values))] == pytest.approx(3 * min(p_values))


def test_less_is_more_where_a_lower_value_leaks_more(folder):
    found = compare_defences(folder, metrics=["knn_distance"])
    assert check(found, "veil", "black box").sign is True
    assert check(found, "veil", "black box").estimates["gap"].value < 0
    assert check(found, "strong", "black box").sign is False


def test_a_metric_without_a_direction_is_shown_and_tells_no_black_box_from_a_white_one(folder):
    found = compare_defences(folder, metrics=["gradient_cosine"])
    assert found.family == 6
    assert check(found, "veil", "black box").text == "no metric with a direction was asked for"
    assert row(found, "veil").masking.verdict == f"sign: {', '.join(CHECKS[1:])}"
    both = compare_defences(folder, metrics=["gradient_cosine", "acc1"])
    assert check(both, "veil", "black box").estimates["gap"].name == "acc1"


def test_a_white_box_that_is_ahead_by_more_is_no_sign(tmp_path):
    for tag, attack, level in (("", WHITE, 0.3), ("", BLACK, 0.6), ("veil", WHITE, 0.8), ("veil", BLACK, 0.2)):
        attack_on(tmp_path / f"{attack}-{tag}", tag, attack, level)
    found = check(compare_defences(tmp_path), "veil", "black box")
    assert found.p_holm < 0.05
    assert found.sign is False


def test_a_black_box_that_is_ahead_on_the_twin_as_well_is_no_sign(tmp_path):
    for tag, attack, level in (("", WHITE, 0.3), ("", BLACK, 0.6), ("veil", WHITE, 0.3), ("veil", BLACK, 0.6)):
        attack_on(tmp_path / f"{attack}-{tag}", tag, attack, level)
    found = check(compare_defences(tmp_path), "veil", "black box")
    assert found.estimates["gap"].low > 0
    assert found.sign is False


@pytest.mark.parametrize(
    ("changed", "name"),
    [({"norm": -5.6}, "gradient norm"), ({"cosine": 0.45}, "cosine"), ({"flat": 0.6}, "flat loss")],
)
def test_each_trace_of_the_gradients_is_a_sign_by_itself(tmp_path, changed, name):
    for tag, of_model in (("", HONEST), ("weak", {**HONEST, **changed})):
        for attack in (WHITE, BLACK):
            gradients(attack_on(tmp_path / f"{attack}-{tag}", tag, attack, 0.5), **of_model)
    found = compare_defences(tmp_path)
    assert row(found, "weak").masking.verdict == f"sign: {name}"


@pytest.mark.parametrize("changed", [{"norm": -5.4}, {"cosine": 0.55}, {"flat": 0.3}])
def test_what_stays_within_the_thresholds_is_none(tmp_path, changed):
    for tag, of_model in (("", HONEST), ("weak", {**HONEST, **changed})):
        for attack in (WHITE, BLACK):
            gradients(attack_on(tmp_path / f"{attack}-{tag}", tag, attack, 0.5), **of_model)
    assert row(compare_defences(tmp_path), "weak").masking.verdict == "no sign (4 of 5)"  # no loss was logged


def test_a_flat_loss_that_the_twin_has_as_well_is_no_sign(tmp_path):
    for tag in ("", "weak"):
        for attack in (WHITE, BLACK):
            gradients(attack_on(tmp_path / f"{attack}-{tag}", tag, attack, 0.5), **{**HONEST, "flat": 0.9})
    assert check(compare_defences(tmp_path), "weak", "flat loss").sign is False


# ---------------------------------------------------------------- what is missing


def test_without_its_cells_nothing_is_measured(tmp_path):
    for tag in ("", "weak"):
        attack_on(tmp_path / f"ppa-{tag}", tag, "ppa", 0.5)
    found = compare_defences(tmp_path)
    assert row(found, "weak").masking.verdict == "not measured"
    reasons = {each.name: each.text for each in row(found, "weak").masking.checks}
    assert reasons["black box"] == "no attack ran as black box and as white box"
    assert reasons["cosine"] == reasons["gradient norm"] == MEASURE
    text = found.render("markdown")
    assert "flat loss of weak" not in text  # rows are called by their labels
    assert "mibench score RUN --metric gradients: gradient norm, cosine, flat loss of shield." in text


def test_what_no_defence_has_measured_is_said_once(tmp_path):
    for tag in ("", "weak", "veil"):
        attack_on(tmp_path / f"ppa-{tag}", tag, "ppa", 0.5)
    text = compare_defences(tmp_path).render("markdown")
    assert "black box and as white box: black box of every defence." in text
    assert "--metric gradients: gradient norm, cosine, flat loss of every defence." in text


@pytest.mark.parametrize("absent", [WHITE, BLACK])
def test_a_cell_that_the_twin_lacks_is_named(tmp_path, absent):
    for tag in ("", "veil"):
        for attack in (WHITE, BLACK):
            if (tag, attack) != ("", absent):
                cell(tmp_path, tag, attack)
    found = check(compare_defences(tmp_path), "veil", "black box")
    assert (found.sign, found.text) == (None, f"the twin has no finished run of {absent}")


def test_without_a_twin_only_the_cosine_is_measured(tmp_path):
    for attack in (WHITE, BLACK):
        cell(tmp_path, "veil", attack)
    made = row(compare_defences(tmp_path), "veil").masking
    assert {each.name for each in made.checks if each.sign is not None} == {"cosine"}
    assert made.verdict == "sign: cosine"


def test_a_reason_why_gradients_have_no_value_is_told(tmp_path):
    runs = [cell(tmp_path, tag, attack) for tag in ("", "weak") for attack in (WHITE, BLACK)]
    null = {"value": None, "low": None, "high": None, "reason": "scores come without a gradient"}
    for run in runs:
        edit(run, "metrics.json", lambda stored: stored["gradient_cosine"].update(null))
    assert check(compare_defences(tmp_path), "weak", "cosine").text == "scores come without a gradient"


def test_runs_under_other_circumstances_are_not_tested(tmp_path):
    for tag in ("", "veil"):
        cell(tmp_path, tag, WHITE)
        cell(tmp_path, tag, BLACK, protocol={"query_budget": 5})
    found = check(compare_defences(tmp_path, mix=True), "veil", "black box")
    assert found.sign is None
    assert "query_budget differs" in found.text


# ---------------------------------------------------------------- transfers, own loss, pairs


def test_what_a_transfer_gets_out_of_the_twin_is_no_sign(folder, tmp_path):
    """It gets the twin's people however well the defence works."""
    for tag in ("", "strong"):
        for attack in (WHITE, BLACK):
            cell(tmp_path, tag, attack)
    surrogate = {"settings": {"surrogate": "twin"}, "surrogate": {"card": "vgg16@synthfaces"}}
    run = attack_on(tmp_path / "transfer", "strong", WHITE, 0.7, **surrogate)
    gradients(run, **{**HONEST, "flat": 0.9})
    curve(run, fell=False)
    found = compare_defences(tmp_path)
    assert row(found, "strong").masking.verdict == "no sign"
    assert found.masking_family == 1
    assert white_box(open_run(run)) is None


def test_the_strongest_of_several_white_boxes_counts(tmp_path):
    for tag, levels in (("", (0.3, 0.7)), ("veil", (0.1, 0.6))):
        for level, steps in zip(levels, (5, 9), strict=True):
            attack_on(tmp_path / f"w-{tag}-{steps}", tag, WHITE, level, settings={"steps": steps})
        attack_on(tmp_path / f"b-{tag}", tag, BLACK, 0.6)
    assert check(compare_defences(tmp_path), "veil", "black box").sign is False


def test_own_loss_is_read_from_the_curves(tmp_path):
    run = attack_on(tmp_path / "run", "", WHITE, 0.5)
    assert own_loss_fell(open_run(run), ["loss"]) is None
    file = run / "units" / "000.safetensors"
    curves = torch.stack([torch.linspace(1, 0.2, 30), torch.full((30,), 5.7), torch.linspace(-1, -2, 30)])
    save_file({"curve.L_ce": curves}, file, metadata={"mibench": "{}"})
    assert own_loss_fell(open_run(run), ["loss", "L_ce"]) == pytest.approx(2 / 3)
    assert own_loss_fell(open_run(run), ["loss"]) is None
    save_file({"curve.L_ce": curves[:, :1].contiguous()}, file, metadata={"mibench": "{}"})
    assert own_loss_fell(open_run(run), ["L_ce"]) is None


def test_own_loss_fell_when_it_fell_by_more_than_its_noise(tmp_path):
    run = attack_on(tmp_path / "run", "", WHITE, 0.5)
    file = run / "units" / "000.safetensors"
    noise = torch.randn(400, 60, generator=torch.Generator().manual_seed(1))

    def share(curves: torch.Tensor) -> float | None:
        save_file({"curve.loss": curves}, file, metadata={"mibench": "{}"})
        return own_loss_fell(open_run(run), ["loss"])

    assert share(noise) < 0.06  # two standard errors: 2.3 %
    slow = torch.linspace(0, -0.04, 60)
    assert share(5.7 + 0.002 * noise + slow) > 0.99  # a classifier that is never certain
    assert share(5.7 + 0.002 * noise - slow) == 0


def test_a_declared_pair_needs_less_than_gradients_and_needs_them():
    from mibench import registry
    from mibench.api import Access

    pairs = {name: registry.counterpart(name) for name in registry.names("counterpart")}
    assert pairs
    for black, white in pairs.items():
        assert registry.load("attack", black).access < Access.GRADIENTS
        assert registry.load("attack", white).access == Access.GRADIENTS
    assert registry.counterpart("nobody") is None


def test_a_run_knows_its_white_box(folder):
    assert white_box(open_run(folder / f"{BLACK}--0")) == WHITE
    assert white_box(open_run(folder / f"{WHITE}--0")) is None


# ---------------------------------------------------------------- tables


def test_every_format_has_the_verdict_and_its_reasons(matrix, tmp_path):
    matrix.write(tmp_path)
    for line in read((tmp_path / "defences.csv").read_text(encoding="utf-8")):
        verdict = {"none": "", "veil": f"sign: {', '.join(CHECKS)}"}.get(line["defence"], "no sign")
        assert line["masking"] == verdict
        assert ("black box: mirror-b − mirror-w" in line["masking_signs"]) == (line["defence"] == "veil")
    for name in ("defences.md", "defences.tex"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "masking" in text
        assert "WARNING, veil shows signs of masking: black box:" in text
        assert "Holm over 3 such tests" in text
        assert f"sign: {', '.join(CHECKS)}" in text
    plain = json.loads(json.dumps(matrix.as_plain()))
    veil = next(each for each in plain["rows"] if each["label"] == "veil")
    assert veil["masking"]["verdict"].startswith("sign: ")
    assert veil["masking"]["checks"][0]["estimates"]["difference of differences"]["value"] > 0
    assert plain["masking_family"] == 3


def test_the_column_fits_the_page(matrix, folder):
    table = matrix_table(matrix, "vgg16@synthfaces")
    names = [column.name for column in table.columns]
    part = table.part("t", "T", ["defence", "masking"], lambda _: True)
    assert "masking" in names
    assert width(part, LAYOUTS[0]) <= LAYOUTS[0].limit
    assert all(len(line) <= 110 for line in matrix.render("text", width=110).splitlines() if line.startswith("|"))


def test_levels_are_those_of_known_classifiers():
    assert set(LEVELS) <= set(LEAKS)
    assert SAMPLES == 4
