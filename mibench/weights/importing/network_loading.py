"""Strict loading of imported weights into the network that they are said to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mibench import registry
from mibench.api import ExplainingImporter, Importer, Prior, TrainedWeights, WeightsContents, load_strictly, mismatch_of
from mibench.errors import MibenchError, MisfitError, StateDictMismatch

from .requested_name import RequestedName
from .text import listed, shown

REPARAMETRISED = {  # endings of keys -> what splits a weight so
    (".weight_g", ".weight_v", ".parametrizations.weight.original1"): "weight_norm",
    (".weight_orig", ".weight_u", ".parametrizations.weight.original"): "spectral_norm or pruning",
}


def check_numbers(weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that no training ends with: not finite in float32, complex, negative variances."""
    for key, tensor in weights.items():
        if tensor.is_complex():
            raise MibenchError(f"{source}: {shown(key)} holds complex numbers", cure="save real ones")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise MibenchError(
                f"{source}: {shown(key)} is not finite: a training that diverged, or a damaged file",
                cure="take another",
            )
        if tensor.dtype == torch.float64 and not bool(tensor.float().isfinite().all()):
            most = float(tensor.abs().max())
            raise MibenchError(
                f"{source}: {shown(key)} holds {most:.3g}, and float32, in which networks run here, ends at "
                "3.4e+38: a training that diverged, or a damaged file",
                cure="take another",
            )
        if key.endswith("running_var") and bool((tensor < 0).any()):
            raise MibenchError(
                f"{source}: {shown(key)} has negative variances: a damaged file", cure="download it again"
            )


def fitted(
    wanted: RequestedName, trained: TrainedWeights, importer: Importer, files: Sequence[WeightsContents]
) -> nn.Module | Prior:
    """The network with its weights, strictly: a module in eval mode, or a prior.

    Raises:
        MisfitError: has every key; the line has the first few and the likely cause, which an
            :class:`~mibench.api.ExplainingImporter` knows best.
    """
    floats = {key: value.float() if value.is_floating_point() else value for key, value in trained.weights.items()}
    source = listed(file.file for file in files)
    try:
        if wanted.kind == "prior":
            prior = registry.load("prior", wanted.architecture)
            for key, value in floats.items():
                if value.ndim and not value.is_floating_point():  # counters have no axes
                    kind = str(value.dtype).removeprefix("torch.")
                    raise MibenchError(
                        f"{source}: {shown(key)} holds {kind}: quantised weights", cure="save them as float32"
                    )
            built: Prior = prior.build(dict(trained.arguments), floats, trained.image, name=wanted.name)
            return built
        network = _built(wanted, trained, floats)
        load_strictly(network, floats, message=StateDictMismatch.summary)  # worded below
        return network.eval().requires_grad_(False)
    except MisfitError as error:
        explained = importer.explain(wanted.architecture, files) if isinstance(importer, ExplainingImporter) else None
        cause = explained or usual_cause(error.misfit)
        raise MisfitError(
            f"{source} is no {wanted.kind} {wanted.architecture}: {error.misfit.summary()}; likely cause: {cause}. "
            "--json lists every key",
            error.misfit,
        ) from error
    except (TypeError, ValueError, RuntimeError) as error:
        reason = shown(" ".join(str(error).split()))
        raise MibenchError(f"{source} is no {wanted.kind} {wanted.architecture}: {reason}") from error


def check_kinds(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse whole numbers where a network has real ones, which loading would convert without a word, and the reverse.

    Counters that were saved as real numbers are taken where they are whole.
    """
    for key, own in wanted.items():
        given = weights[key]
        if own.is_floating_point() and not given.is_floating_point():
            raise MibenchError(
                f"{source}: {shown(key)} holds {str(given.dtype).removeprefix('torch.')} where the network has "
                "real numbers: quantised weights, or a damaged file",
                cure="save them as float32",
            )
        if not own.is_floating_point() and given.is_floating_point() and bool((given != given.round()).any()):
            raise MibenchError(
                f"{source}: {shown(key)} is a count and holds fractions: a damaged file", cure="take another"
            )


def _built(wanted: RequestedName, trained: TrainedWeights, weights: Mapping[str, Tensor]) -> nn.Module:
    """The network with fresh weights.

    Shapes are compared on a skeleton first: lengths in a file are not to be believed, and a network that is built by
    them could fill the memory.
    """
    architecture = registry.load(wanted.kind, wanted.architecture)
    arguments = dict(trained.arguments)
    if trained.classes is not None:
        arguments["num_classes"] = trained.classes
    with torch.device("meta"):
        skeleton: nn.Module = architecture(**arguments)
    if misfit := mismatch_of(skeleton, weights):
        raise MisfitError(misfit.summary(), misfit)
    check_kinds(skeleton.state_dict(), weights, wanted.name)
    network: nn.Module = architecture(**arguments)
    return network


def usual_cause(misfit: StateDictMismatch) -> str:
    """What it mostly is, for importers that do not know better."""
    for names, what in REPARAMETRISED.items():
        if any(key.endswith(names) for key in misfit.unexpected):
            return f"saved with {what} on; take it off before the state_dict is saved"
    if not misfit.missing and not misfit.unexpected:
        return "another width, image size or number of classes in one part of the file than in the rest"
    if any(key.startswith("module.") for key in misfit.unexpected):
        return "saved from DataParallel, but only in part"
    return "another architecture"
