"""FaceNet64: the 64-pixel IR-50 target that papers call "face.evoLVe"."""

from __future__ import annotations

from . import ir


class FaceNet64(ir.IRClassifier):
    """IR-50 backbone at 64x64, 35.4 M parameters at width 1 and 1000 classes."""

    units = ir.IR50
