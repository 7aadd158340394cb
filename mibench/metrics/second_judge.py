"""A second judge: another network's verdicts on the same images, its own errors, and how often the two agree.

Where two classifiers that share neither architecture nor training pictures both accept an image, its acceptance is no
quirk of one of them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from mibench.api import Estimate, Measured, MetricInfo, metric
from mibench.data.split import Images

from . import estimates
from .accuracy import always_hit
from .controls import CONTROLS, ControlImages, control_tables
from .extractors import JudgeExtractor
from .inputs import ScoringInputs, SecondJudge, column_mean
from .judge_errors import INFOS, control_pairs, judge_errors

PREFIX = "second_"
NAMES = ("second_acc1", "both_judges_acc1", "judges_agree")
JUDGED = tuple(control for control in CONTROLS if control != "no_information")  # which shows no image


def ask_second_judge(
    judge: JudgeExtractor,
    images: Tensor,
    labels: Tensor,
    private: Images,
    portraits: Images | None,
    controls: ControlImages,
) -> SecondJudge:
    """What ``judge`` says of reconstructions ``(N, 3, H, W)`` of ``labels`` ``(N,)`` and of the controls.

    The nearest strangers are those nearest in its own features to the ``private`` training images.
    """
    judged, attacked, public = judge.judged(images, labels), labels.unique(), controls["public"]
    output = judge.cached(public.pixels) if public is not None and len(public) else None
    tables = control_tables(
        attacked,
        judge=judge,
        reference=judge.cached_features(private.pixels),
        public_output=output,
        portraits=portraits,
        truth=None,
        **controls,
    )
    return SecondJudge(
        predicted=judged.verdicts.predicted,
        hit1=judged.verdicts.hit1,
        extractor=judge.record,
        controls=tables,
        control_pairs=control_pairs(attacked, output, tables),
        fixed=always_hit(1, judged.classes, f"judge {judge.name!r}"),
    )


_CONTROLS = tuple(
    MetricInfo(
        f"{PREFIX}control_{control}_acc1",
        f"acc@1 by the second judge, {CONTROLS[control]}",
        percent=True,
        proportion=True,
        higher_is_better=True,
        topic="control",
        views=(),
    )
    for control in JUDGED
)
_ERRORS = tuple(replace(info, name=PREFIX + info.name, title=f"second judge's {info.title}") for info in INFOS)


@metric(
    MetricInfo(
        "second_acc1",
        "acc@1, second judge",
        percent=True,
        proportion=True,
        higher_is_better=True,
        column="second_hit1",
        topic="accuracy",
        tested=False,  # another look at what acc1 tests
    ),
    MetricInfo(
        "both_judges_acc1",
        "acc@1, both judges",
        percent=True,
        proportion=True,
        higher_is_better=True,
        column="both_hit1",
        topic="accuracy",
        views=("run", "summary"),
        tested=False,
    ),
    MetricInfo(
        "judges_agree",
        "both judges give one answer",
        percent=True,
        proportion=True,
        higher_is_better=True,
        column="judges_agree",
        topic="accuracy",
        views=("run",),
        tested=False,
    ),
    *_CONTROLS,
    *_ERRORS,
)
def measure(inputs: ScoringInputs) -> Measured:
    """The second judge's acc1 of reconstructions and controls and its errors; how often both judges accept, or agree.

    Columns ``second_predicted``, ``second_hit1``, ``both_hit1`` and ``judges_agree``; two agree where they put an image
    down to one person, right or wrong.
    """
    second = inputs.second_judge
    if second is None:
        reason = "the protocol names no second judge"
        return Measured([estimates.null(name, reason) for name in NAMES], {})
    predicted = second.predicted.numpy()
    hits = second.hit1.numpy()
    columns = {
        "second_predicted": predicted,
        "second_hit1": hits,
        "both_hit1": hits & inputs.samples["hit1"].to_numpy(dtype=bool),
        "judges_agree": predicted == inputs.samples["predicted"].to_numpy(dtype=np.int64),
    }
    both = f"{inputs.extractor}; {second.extractor}"
    fixed = second.fixed or inputs.fixed.get("hit1")
    measured: list[Estimate] = []
    for name, column, extractor in zip(
        NAMES, ("second_hit1", "both_hit1", "judges_agree"), (second.extractor, both, both), strict=True
    ):
        if fixed:
            measured.append(estimates.not_informative(name, fixed, extractor=extractor))
        else:
            values = columns[column].astype(np.float64)
            measured.append(inputs.mean_of(name, values, proportion=True, extractor=extractor))
    for control, table in second.controls.items():
        name = f"{PREFIX}control_{control}_acc1"
        if second.fixed:
            measured.append(estimates.not_informative(name, second.fixed, extractor=second.extractor))
        else:
            measured.append(
                column_mean(name, table, "hit1", proportion=True, extractor=second.extractor, **inputs.intervals)
            )
    own = replace(
        inputs,
        control_pairs=second.control_pairs,
        extractor=second.extractor,
        fixed={"hit1": second.fixed} if second.fixed else {},
    )
    measured += [replace(each, name=PREFIX + each.name) for each in judge_errors(own)]
    return Measured(measured, columns)
