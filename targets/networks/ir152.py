"""IR152: the deep target of the GMI and KEDMI protocol."""

from __future__ import annotations

from . import ir


class IR152(ir.IRClassifier):
    """IR-152 backbone at 64x64, 62.6 M parameters at width 1 and 1000 classes."""

    units = ir.IR152
