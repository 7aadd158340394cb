"""Files that the field passes around, and what their authors say of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .requested_name import RequestedName

KEDMI = "SCccc21/Knowledge-Enriched-DMI"
LOMMA = "sutd-visual-computing-group/Re-thinking_MI"
TOOLBOX = "Model-Inversion-Attack-ToolBox"
FACE_EVOLVE = "ZhaoJ9014/face.evoLVe"


@dataclass(frozen=True)
class Released:
    """A released file.

    Attributes:
        pattern: regular expression over the whole file name.
        name: ``kind:architecture@dataset`` that it is imported as.
        source: whose it is.
        accuracy: test accuracy in percent that its name states, or None.
    """

    pattern: str
    name: str
    source: str
    accuracy: float | None = None


RELEASED = (
    Released(r"VGG16_88\.26\.tar", "target:vgg16@celeba", KEDMI, 88.26),
    Released(r"VGG16_87\.10_allclass\.tar", "target:vgg16@celeba", LOMMA, 87.10),
    Released(r"IR152_91\.16\.tar", "target:ir152@celeba", KEDMI, 91.16),
    Released(r"FaceNet64_88\.50\.tar", "target:facenet64@celeba", KEDMI, 88.50),
    Released(r"FaceNet_95\.88\.tar", "judge:facenet112@celeba", KEDMI, 95.88),
    Released(r".*93\.71.*", "target:ir152@celeba", TOOLBOX, 93.71),
    Released(r".*97\.72.*", "judge:facenet112@celeba", TOOLBOX, 97.72),
    Released(r"improved_celeba_[GD]\.tar", "prior:kedmi@celeba", KEDMI),
    Released(r"celeba_[GD]\.tar", "prior:gmi@celeba", KEDMI),
    Released(r"backbone_ir50_ms1m_epoch120\.pth", "backbone:ir50@ms1m", FACE_EVOLVE),
    Released(r"Backbone_IR_152_Epoch_112_.*_checkpoint\.pth", "backbone:ir152@ms1m", FACE_EVOLVE),
    Released(r"vgg16_bn-6c64b313\.pth", "backbone:vgg16_bn@imagenet", "torchvision"),
)


def recognise(file: str, wanted: RequestedName) -> Released | None:
    """The release that a file of this name is, when it is imported as what it was released as."""
    name = f"{wanted.kind}:{wanted.architecture}@{wanted.dataset}"
    candidates = (
        entry for entry in RELEASED if entry.name == name and re.fullmatch(entry.pattern, file, re.IGNORECASE)
    )
    return next(candidates, None)
