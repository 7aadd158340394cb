"""The network is `mibench fetch`'s alone: the catalogue, `--offline`, and a proof that nothing else reaches out."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torchvision
from click.testing import CliRunner

import mibench
from mibench import doctor, registry
from mibench.cli import cli
from mibench.downloads import catalogue
from mibench.downloads.content_check import complaint
from mibench.errors import MibenchError
from mibench.metrics.extractors import InceptionExtractor, inception_asset
from mibench.system.file_type import HEAD


def timed(code: str, *arguments: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], bool, float]:
    """A fresh interpreter: what it did, whether it imported torch, and its processor seconds (not what others took)."""
    ending = "finally:\n    import sys, time; print('torch' in sys.modules, time.process_time())\n"
    done = subprocess.run(
        [sys.executable, "-c", f"try:\n    {code}\n{ending}", *arguments],
        capture_output=True, text=True, env=os.environ | environment, timeout=600, check=False,
    )  # fmt: skip
    imported, seconds = done.stdout.split()
    return done, imported == "True", float(seconds)


@pytest.fixture(scope="module")
def importing_torch() -> float:
    """Processor seconds that importing torch takes here and now: the measure of what is slow."""
    done, imported, seconds = timed("import torch")
    assert imported, done.stderr
    return seconds


@pytest.mark.parametrize("by_variable", [False, True])
def test_offline_names_the_file_at_once_and_without_torch(
    tmp_path: Path, by_variable: bool, importing_torch: float
) -> None:
    home = tmp_path / "home"
    names = ["inception", "resnet18@imagenet", "stylegan2@ffhq", "celeba"]
    variables = {"MIBENCH_HOME": str(home)} | ({"MIBENCH_OFFLINE": "1"} if by_variable else {})
    flags = [] if by_variable else ["--offline"]
    done, imported, seconds = timed("import mibench.cli; mibench.cli.cli()", "fetch", *flags, *names, **variables)
    assert done.returncode == 2, done.stderr
    assert not imported
    # A quarter of it where this was written; whatever imports torch, or anything of its weight, takes more than all.
    assert seconds < importing_torch
    errors = done.stderr.splitlines()
    assert [line.split()[2] for line in errors] == names
    assert str(home / "assets" / "inception" / "pt_inception-2015-12-05-6726825d.pth") in errors[0]
    assert "sha256 6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2" in errors[0]
    assert "sha256 beginning f37072fd" in errors[1]
    assert "no published sha256" in errors[2]
    assert "identity_CelebA.txt" in errors[3]
    assert not home.exists()


# The catalogue itself.


def entries(kind: type) -> list[Any]:
    return [entry for entry in catalogue.catalogue().values() if isinstance(entry, kind)]


def test_the_catalogue_is_well_formed() -> None:
    assert entries(catalogue.Asset)
    assert entries(catalogue.ByHand)
    for asset in entries(catalogue.Asset):
        assert all(url.startswith("https://") for url in asset.urls)
        assert asset.urls[0].endswith(asset.file)
        assert len(asset.sha256) in (0, catalogue.LEAST_PREFIX, 64)
        assert set(asset.sha256) <= set("0123456789abcdef")
        assert not Path(asset.path).is_absolute()
        assert ".." not in Path(asset.path).parts
        assert not asset.use or "{path}" in asset.use
        assert asset.licence
    for entry in entries(catalogue.ByHand):
        assert entry.steps
        assert entry.check.startswith("mibench ")
        assert entry.instructions()


def test_every_import_that_is_named_is_one_that_there_is() -> None:
    from mibench.weights.importing.requested_name import parse

    steps = [asset.use for asset in entries(catalogue.Asset)]
    steps += [step for entry in entries(catalogue.ByHand) for step in entry.steps]
    wanted = [parse(step.split("--as ")[1].split()[0]) for step in steps if "--as " in step]
    assert len(wanted) > 20
    made = {entry.name: entry.brings for entry in entries(catalogue.ByHand) if entry.brings}
    named = {want.name for want in wanted}
    assert {card for cards in made.values() for card in cards} <= named
    assert all(catalogue.source_of(name) for name in named)
    trained = {name.partition(":")[2] for name in registry.names("recipe") if name.startswith("backbone:")}
    backbones = {name for name in registry.names("backbone") if hasattr(torchvision.models, name)} - trained
    assert {f"{name}@imagenet" for name in backbones} <= named


def test_every_data_set_of_files_is_explained() -> None:
    from mibench.data.files import FileSplit

    of_files = {name for name in registry.names("dataset") if issubclass(registry.load("dataset", name), FileSplit)}
    places = {entry.dataset for entry in entries(catalogue.ByHand)} - {""}
    assert of_files - {"folder"} == places  # folder: one's own


def test_torchvisions_addresses_are_those_of_the_installed_torchvision() -> None:
    found = [asset for asset in entries(catalogue.Asset) if asset.name.partition("@")[2].startswith("imagenet")]
    assert len(found) > 10
    for asset in found:
        name, _, tag = asset.name.partition("@")
        weights = torchvision.models.get_model_weights(name)[
            "IMAGENET1K_V2" if tag == "imagenet+v2" else "IMAGENET1K_V1"
        ]
        assert asset.urls == (weights.url,)
        assert asset.file == f"{asset.file.rpartition('-')[0]}-{asset.sha256}.pth"


def test_inception_is_where_fid_looks(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_fid import inception

    asset = inception_asset()
    assert asset.path_in() == home / "assets" / "inception" / asset.file
    assert asset.file.endswith(f"-{asset.sha256[:8]}.pth")
    assert len(asset.sha256) == 64
    assert asset.urls == (inception.FID_WEIGHTS_URL,)
    monkeypatch.delenv("MIBENCH_INCEPTION", raising=False)
    with pytest.raises(MibenchError, match="`mibench fetch inception`"):
        InceptionExtractor()
    asset.path_in().parent.mkdir(parents=True)
    asset.path_in().write_bytes(b"found, and another file")
    with pytest.raises(MibenchError, match="is not pt_inception"):
        InceptionExtractor()


def test_magic_numbers_are_those_of_torch(tmp_path: Path) -> None:
    import torch

    for zipped in (True, False):
        path = tmp_path / "w.pth"
        torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=zipped)
        assert complaint(path.read_bytes()[:HEAD], "torch") is None


# Nothing else touches a network.

NETWORK = ("urllib.request", "http.client", "socket", "requests", "httpx", "ftplib", "huggingface_hub", "torch.hub",
           "torch.utils.model_zoo", "aiohttp", "urllib3")  # fmt: skip


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches out fails the test."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was touched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, forbidden)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, forbidden)


@pytest.mark.parametrize("name", ["vgg16", "resnet18", "densenet121"])
def test_networks_of_libraries_are_built_without_a_network(no_network: None, name: str) -> None:
    assert sum(tensor.numel() for tensor in registry.load("target", name)(num_classes=2).state_dict().values()) > 1e6


def sources() -> list[Path]:
    root = Path(mibench.__file__).parent
    folders = [root, *((root / name).resolve() for name in ("attacks", "targets", "reports"))]
    return [path for folder in folders for path in folder.rglob("*.py")]


def test_only_fetching_can_reach_a_network() -> None:
    seen = 0
    for path in sources():
        if path.parent.name == "downloads" or path.name == "viewer.py":  # the viewer listens on the loopback address
            continue
        seen += 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute):
                names = {ast.unparse(node)}
            bad = {n for n in names for forbidden in NETWORK if n == forbidden or n.startswith(f"{forbidden}.")}
            assert not bad, f"{path} uses {sorted(bad)}: only mibench.downloads may"
    assert seen > 50


def test_no_pretrained_weights_are_asked_of_a_library() -> None:
    """torchvision and timm download when they are asked for weights: nobody may ask, not even by a variable."""
    seen = 0
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            callee = ast.unparse(node.func)
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            asked = callee.startswith(("torchvision.models.", "models.", "timm.", "tv_models."))
            seen += asked
            for name in ("weights", "weights_backbone", "pretrained"):
                if asked and name in keywords:
                    assert ast.unparse(keywords[name]) in ("None", "False"), (
                        f"{path}:{node.lineno}: {ast.unparse(node)}"
                    )
            assert not callee.endswith((".get_state_dict", "load_state_dict_from_url")), f"{path}:{node.lineno}"
    assert seen, "nobody calls torchvision's or timm's models under these names any more"


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy"],
        ["train", "target", "toynet", "--dataset", "toyfaces", "--tag", "again"],
        ["doctor", "--full"],
        ["list"],
        ["show", "card", "toynet@toyfaces"],
        ["data", "preview", "toyfaces", "--people", "2", "--images", "2"],
        ["fetch", "--list"],
        ["fetch", "--offline", "inception"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_commands_touch_no_network(
    toy: Path, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "LEAST_DISK", 0.0)  # a full disk is no matter of the network
    monkeypatch.setattr(doctor, "total_memory", lambda device: None)
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == (2 if "--offline" in arguments else 0), done.output
