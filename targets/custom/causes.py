"""Why a model cannot run on a batch of images, where its error tells."""

from __future__ import annotations

import re

from mibench.api import text_of

CAUSES = (  # what errors of torch say, and what follows
    (
        re.compile(r"\b(double|float64|f64)\b", re.IGNORECASE),
        "; its weights are float64, and images come as float32: save it in float32 (model.float())",
    ),
    (
        re.compile(r"\b(half|float16|bfloat16|c10::half)\b", re.IGNORECASE),
        "; its weights are in half precision, and images come as float32: save it in float32 (model.float())",
    ),
    (
        re.compile(r"cuda|expected all tensors to be on the same device", re.IGNORECASE),
        "; it was exported for a GPU: save it from the CPU (model.cpu())",
    ),
    (
        re.compile(r"expected input\[.*\] to have (\d+) channels"),
        "; it takes images of another number of channels, and there are three here",
    ),
    (
        re.compile(
            r"shapes cannot be multiplied|size mismatch|size of tensor a .* must match|kernel size can't be greater"
            r"|is invalid for input of size|output size is too small|expected input\[|input image size"
            r"|doesn't match model|should be less than .* dimension|sizes of tensors must match",
            re.IGNORECASE,
        ),
        "; is --size right?",
    ),
)


def likely(error: BaseException) -> str:
    """``; is --size right?`` and the like where the error's text is evidence for it, else nothing."""
    text = " ".join(text_of(error).split())
    return next((cause for pattern, cause in CAUSES if pattern.search(text)), "")
