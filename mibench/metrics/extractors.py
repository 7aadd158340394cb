"""From stored images to features: judges, regressors and pytorch-fid's Inception, with a cache for private images."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mibench.api import ClassifierOutput, ImageSpec, MibenchError
from mibench.downloads.catalogue import Asset, catalogue
from mibench.system.files import atomic_write

from .accuracy import Verdicts

Resize = Literal["low2high", "bilinear", "antialias"]

INCEPTION_VARIABLE = "MIBENCH_INCEPTION"

HASHED_AT_ONCE = 64  # images

_log = logging.getLogger(__name__)


def low2high(images: Tensor, size: int) -> Tensor:
    """The published path of a small reconstruction to its judge: 8 bits, PIL bilinear, back to float.

    Args:
        images: uint8 ``(N, 3, H, W)``, taken as they are, or float in [0, 1], clamped and *truncated* to 8 bits
            (KEDMI and its descendants). Not differentiable.
        size: side in pixels.

    Returns:
        float32 ``(N, 3, size, size)`` in [0, 1], multiples of 1/255. Images of that size are only quantised.
    """
    pixels = images if images.dtype == torch.uint8 else (images.clamp(0, 1) * 255).to(torch.uint8)
    if pixels.shape[-2:] != (size, size):
        import numpy as np
        from PIL import Image

        resized = np.empty((pixels.shape[0], size, size, 3), dtype=np.uint8)
        for row, image in enumerate(pixels.permute(0, 2, 3, 1).cpu().numpy()):
            resized[row] = np.asarray(
                Image.fromarray(np.ascontiguousarray(image)).resize((size, size), Image.Resampling.BILINEAR)
            )
        pixels = torch.from_numpy(resized).permute(0, 3, 1, 2)
    return pixels.float() / 255


def bilinear(images: Tensor, size: int, *, antialias: bool = False) -> Tensor:
    """Tensor bilinear resize to ``(N, 3, size, size)``, float32 in [0, 1], without an 8-bit step (PLG-MI, PPA)."""
    floats = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if floats.shape[-2:] == (size, size):
        return floats
    return nn.functional.interpolate(
        floats, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias
    ).clamp(0, 1)


def resize(images: Tensor, size: int, how: Resize) -> Tensor:
    """Images as float32 in [0, 1] at ``size`` pixels by the named method."""
    if how == "low2high":
        return low2high(images, size)
    if how in ("bilinear", "antialias"):
        return bilinear(images, size, antialias=how == "antialias")
    raise MibenchError(f"unknown resize {how!r}", cure="choose low2high, bilinear or antialias")


class _NetworkExtractor:
    """A frozen network with its image spec, run in batches of a fixed size (so that results can be repeated)."""

    def __init__(
        self,
        network: nn.Module,
        image: ImageSpec,
        *,
        name: str,
        resize: Resize = "low2high",
        batch: int = 64,
        device: torch.device | str = "cpu",
        weights_sha256: str | None = None,
        cache: Path | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(self._device)
        self.image = image
        self.name = name
        self.resize: Resize = resize
        self._batch = batch
        self._weights_sha256 = weights_sha256
        self._cache = cache

    @property
    def record(self) -> str:
        """Name and resize, as written beside every number."""
        return f"{self.name} ({self.resize} to {self.image.size})"

    def _require_images(self, images: Tensor) -> None:
        if not len(images):
            raise MibenchError(f"{self.name!r} was given no image", cure="check the reconstructions and the split")

    def _outputs(self, images: Tensor) -> Iterator[Any]:
        mean = torch.tensor(self.image.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.image.std).view(1, -1, 1, 1)
        for part in images.split(self._batch):
            fitted = (resize(part, self.image.size, self.resize) - mean) / std
            with torch.inference_mode():
                yield self._network(fitted.to(self._device))

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._device

    def _key(self, images: Tensor, what: str = "features 1") -> str:
        if self._weights_sha256 is None:
            self._weights_sha256 = hash_weights(self._network)
        text = f"{what}|{self._weights_sha256}|{self.image}|{self.resize}|{self._batch}|{self._device.type}"
        return content_hash(images, text)


class Judged(NamedTuple):
    """Features ``(N, D)`` of images, what the logits say of their labels, and how many classes there are."""

    features: Tensor
    verdicts: Verdicts
    classes: int


class JudgeExtractor(_NetworkExtractor):
    """A classifier as judge: stored images in, penultimate features and logits out.

    Args:
        network: maps normalised images to a :class:`~mibench.api.ClassifierOutput` (or a pair).
        image: the images it takes; images of another size are brought there by ``resize``.
        name: for the record, ``facenet112@synthfaces``.
        resize: ``low2high`` (8-bit, PIL bilinear), ``bilinear`` (tensor) or ``antialias`` (tensor).
        batch: images per forward pass.
        device: where the network runs; results come back to the CPU.
        weights_sha256: hash of its weights; computed when a cache needs it and it was not given.
        cache: folder for features of private images, or None.
    """

    def __call__(self, images: Tensor) -> ClassifierOutput:
        """Features ``(N, D)`` and logits ``(N, C)``, float32 on the CPU, of uint8 or float images ``(N, 3, H, W)``."""
        parts = list(self.batches(images))
        return ClassifierOutput(*(torch.cat(tensors).clone() for tensors in zip(*parts, strict=True)))

    def batches(self, images: Tensor) -> Iterator[ClassifierOutput]:
        """The same batch by batch, for callers that do not need all ``N * C`` logits at once."""
        self._require_images(images)
        for output in self._outputs(images):
            # copies: some networks fill the same tensors anew in every call
            yield ClassifierOutput(output[0].float().cpu().clone(), output[1].float().cpu().clone())

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)`` of images ``(B, 3, S, S)`` in [0, 1], of its size and on its device; differentiable."""
        mean, std = self._moments
        logits: Tensor = self._network((images - mean) / std)[1]
        return logits

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and std on the device, moved once: a copy at every pass would wait for the device every time."""
        moments = (self.image.mean, self.image.std)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1).to(self._device) for values in moments)
        return mean, std

    def judged(self, images: Tensor, labels: Tensor) -> Judged:
        """What the network sees of each image and says of its label; ``labels`` is int64 ``(N,)``.

        Raises:
            MibenchError: a label that is none of its classes.
        """
        features, verdicts, classes = [], [], 0
        for output, batch_labels in zip(self.batches(images), labels.split(self._batch), strict=True):
            classes = output.logits.shape[1]
            if int(batch_labels.max()) >= classes or int(batch_labels.min()) < 0:
                raise MibenchError(
                    f"class {int(labels.max())} is outside the {classes} classes of judge {self.name!r}; "
                    "the judge was trained for another data set"
                )
            features.append(output.features)
            verdicts.append(Verdicts.of(output.logits, batch_labels))
        joined = Verdicts(*(column.clone() for column in Verdicts.joined(verdicts)))
        return Judged(torch.cat(features).clone(), joined, classes)

    def cached_features(self, images: Tensor) -> Tensor:
        """Features ``(N, D)``, kept in the cache folder as :meth:`cached` keeps them, without logits."""

        def features() -> Tensor:
            return torch.cat([output.features for output in self.batches(images)]).clone()

        if self._cache is None:
            return features()
        key = self._key(images, "features 2")
        return cached_tensors(self._cache, key, lambda: {"features": features()})["features"]

    def cached_judged(self, images: Tensor, labels: Tensor) -> Judged:
        """:meth:`judged`, kept in the cache folder."""
        if self._cache is None:
            return self.judged(images, labels)

        def tensors() -> dict[str, Tensor]:
            seen = self.judged(images, labels)
            return {"features": seen.features, "classes": torch.tensor(seen.classes), **seen.verdicts._asdict()}

        digest = hashlib.sha256(labels.cpu().numpy().tobytes()).hexdigest()
        cached = cached_tensors(self._cache, self._key(images, f"judged 1|{digest}"), tensors)
        verdicts = Verdicts(*(cached[name] for name in Verdicts._fields))
        return Judged(cached["features"], verdicts, int(cached["classes"]))

    def cached(self, images: Tensor) -> ClassifierOutput:
        """Cached version of :meth:`__call__`, under a hash of images, weights and preprocessing."""
        if self._cache is None:
            return self(images)
        outputs = cached_tensors(self._cache, self._key(images), lambda: self(images)._asdict())
        return ClassifierOutput(outputs["features"], outputs["logits"])


class RegressorExtractor(_NetworkExtractor):
    """A network from images to vectors ``(N, K)``; takes the arguments of :class:`JudgeExtractor`.

    A network that returns a tuple is read at its last element (features first, result last).
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Vectors ``(N, K)``, float32 on the CPU, of uint8 or float images ``(N, 3, H, W)``."""
        self._require_images(images)
        vectors = []
        for output in self._outputs(images):
            vector = output if isinstance(output, Tensor) else output[-1]
            vectors.append(vector.float().cpu().clone())
        return torch.cat(vectors).clone()


class InceptionExtractor:
    """pytorch-fid's InceptionV3 (pool3, 2,048 features) from a local file of weights; never downloads.

    The network resizes to 299 pixels (bilinear, ``align_corners=False``) and maps [0, 1] to [-1, 1] itself.

    Args:
        path: the weights file; by default ``$MIBENCH_INCEPTION``, else where ``mibench fetch inception`` puts it.
        sha256: what the file must hash to; None: as the catalogue of `mibench fetch` says.
        batch: images per forward pass.
        device: where the network runs.
        cache: folder for features of private images, or None.

    Raises:
        MibenchError: the file is missing, or it is another file.
    """

    def __init__(
        self,
        path: Path | str | None = None,
        *,
        sha256: str | None = None,
        batch: int = 50,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
    ) -> None:
        named = path or os.environ.get(INCEPTION_VARIABLE)
        asset = inception_asset()
        sha256 = sha256 or asset.sha256
        file = Path(named).expanduser() if named else asset.path_in()
        # what is said here becomes the reason of a metric without value: it names no folder of this machine
        where = f".../{file.name}" if named else f"$MIBENCH_HOME/assets/{asset.path}"
        if not file.is_file():
            raise MibenchError(
                f"FID needs pytorch-fid's Inception weights, and there are none at {where}",
                cure=f"`mibench fetch inception` brings them (or set {INCEPTION_VARIABLE} to the path of {asset.file})",
            )
        digest = file_sha256(file)
        if digest != sha256:
            raise MibenchError(
                f"the file at {where} is not {asset.file}: its sha256 begins with {digest[:12]}, expected "
                f"{sha256[:12]}",
                cure="move it away and run `mibench fetch inception`",
            )
        self.name = f"{asset.file.removesuffix('.pth')} pool3"
        self._sha256 = digest
        self._batch = batch
        self._device = torch.device(device)
        self._cache = cache
        self._network = _build_inception(file).eval().to(self._device)

    def __call__(self, images: Tensor, scaling: str = "unit") -> Tensor:
        """Features ``(N, 2048)``, float32 on the CPU, of uint8 images ``(N, 3, H, W)``.

        ``scaling="ppa-legacy"`` feeds [-1, 1] where [0, 1] is expected, as Plug & Play Attacks does.
        """
        if images.dtype != torch.uint8:
            raise MibenchError("FID takes 8-bit images, got floats", cure="quantise with mibench.data.split.to_uint8")
        if scaling not in ("unit", "ppa-legacy"):
            raise MibenchError(f"unknown scaling {scaling!r}", cure="choose unit or ppa-legacy")
        features = [torch.empty(0, 2048)]
        for part in images.split(self._batch):
            floats = part.float() / 255
            if scaling == "ppa-legacy":
                floats = floats * 2 - 1
            with torch.inference_mode():
                features.append(self._network(floats.to(self._device))[0].flatten(1).float().cpu())
        return torch.cat(features).clone()

    def cached(self, images: Tensor, scaling: str = "unit") -> Tensor:
        """Cached version of :meth:`__call__`."""
        if self._cache is None:
            return self(images, scaling)
        key = content_hash(images, f"inception 1|{self._sha256}|{scaling}|{self._batch}|{self._device.type}")
        return cached_tensors(self._cache, key, lambda: {"features": self(images, scaling)})["features"]


def inception_asset() -> Asset:
    """pytorch-fid's weights in the catalogue of files: name, hash, and where `mibench fetch` puts them."""
    asset = catalogue()["inception"]
    assert isinstance(asset, Asset)
    return asset


def _build_inception(file: Path) -> nn.Module:
    """pytorch-fid's network with the weights of ``file``: its own loader, which downloads, is replaced meanwhile."""
    from pytorch_fid import inception

    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise MibenchError(
            f"{file.name} cannot be read as weights ({type(error).__name__})", cure="fetch it again"
        ) from error
    original = inception.load_state_dict_from_url
    inception.load_state_dict_from_url = lambda *arguments, **options: weights
    try:
        network: nn.Module = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    finally:
        inception.load_state_dict_from_url = original
    return network


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_weights(network: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of a network's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def content_hash(images: Tensor, text: str = "") -> str:
    """SHA-256 over the shape, type and bytes of images, and a text.

    A part at a time: the private images of a judge at 299 pixels are a mapped file of gigabytes.
    """
    digest = hashlib.sha256(f"{text}|{tuple(images.shape)}|{images.dtype}|".encode())
    for part in images.detach().split(HASHED_AT_ONCE):
        digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def cached_tensors(folder: Path, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors stored under ``key``, or computed and stored. A broken entry is computed again; a folder that cannot be
    written costs time only (logged), never a result."""
    from safetensors import SafetensorError
    from safetensors.torch import load, save

    file = folder / f"{key}.safetensors"
    if file.is_file():
        try:
            return load(file.read_bytes())
        except (SafetensorError, OSError) as error:
            _log.warning("cached features in %s cannot be read (%s); computing them again", file, error)
    tensors = {name: tensor.contiguous() for name, tensor in compute().items()}
    try:
        atomic_write(file, save(tensors), sweep=True)
    except MibenchError as error:
        _log.warning("features were not cached in %s: %s", folder, error)
    return tensors
