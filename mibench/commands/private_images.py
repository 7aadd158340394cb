"""Private images for a page: loaded anew from the data set that a run names, and only if it still is that data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mibench import registry
from mibench import settings as config
from mibench.data.split import GroundTruth, IdentitySplit
from mibench.errors import MibenchError
from mibench.results import LabelledImages, StoredRun
from mibench.settings import Layer


def private_images(
    settings: Mapping[str, object], *, show_faces: bool
) -> Callable[[StoredRun, Sequence[int]], LabelledImages]:
    """What gives a page private images of a run.

    The folder of the data is not read from the run, which may come from anybody and name any folder of this machine.

    Args:
        settings: of the data set, such as its ``root``, over those that the run recorded.
        show_faces: load photographs; without it only people who are made up.
    """

    def load(run: StoredRun, identities: Sequence[int]) -> LabelledImages:
        dataset = attacked_data(run, settings, show_faces=show_faces)
        return dataset.private("train", _side(run), sorted(identities))

    return load


def attacked_data(run: StoredRun, settings: Mapping[str, object], *, show_faces: bool) -> IdentitySplit:
    """The data set of a run, of which images will be shown.

    Raises:
        MibenchError: people who may be real without ``show_faces``; another data set than the one that was attacked.
    """
    recorded = run.specification.get("dataset_settings")
    kept = {key: value for key, value in dict(recorded or {}).items() if key != "root"}
    layers = [Layer("run.json", kept), Layer("--set", dict(settings), by_user=True)]
    kind: type[IdentitySplit] = registry.load("dataset", run.dataset)
    if not show_faces and not issubclass(kind, GroundTruth):
        raise MibenchError(f"the people of {run.dataset} may be real", cure="show them with --show-faces")
    dataset, _ = config.resolve(kind, layers, scope="dataset")
    if dataset.digest != run.specification.get("dataset_digest"):
        raise MibenchError(
            f"the data set {run.dataset} here is not the one that was attacked",
            cure="name its folder with --set dataset.root=FOLDER",
        )
    return dataset


def _side(run: StoredRun) -> int:
    """Pixels a side of the images that the target takes: those of the reconstructions."""
    if not run.units:
        raise MibenchError(f"{run.path} has no reconstruction", cure="run it again")
    return int(run.units[0].images.shape[-1])
