"""Malformed weights: rows for `mibench import`, `run` and `fetch`."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from malformed import HTML, Call, Row, World, cut, edit
from torch import nn

from mibench import registry

# mibench import


def state(kind: str = "target", name: str = "vgg16", classes: int = 4) -> dict[str, Any]:
    """Narrow random weights under the names that the releases have."""
    network = registry.load(kind, name)(num_classes=classes, width=0.0625)
    return {f"module.{key}": value for key, value in network.state_dict().items()}


def bring(
    world: World, content: Any, *more: Any, wanted: str = "target:vgg16@celeba", file: str = "a.tar"
) -> list[Any]:
    """Import a file: bytes as they are, anything else as torch saves it."""
    path = world.place / file
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return ["import", path, "--as", wanted, "--device=cpu", *more]


def evil(world: World) -> list[Any]:
    given = bring(world, {"state_dict": state(), "epoch": Call(os.system, f"touch {world.place / 'owned'}")})
    return given  # the snapshot would see the file


def zip_bomb(world: World) -> list[Any]:
    torch.save({"w": torch.zeros(1_000_000)}, world.place / "s.pth")
    with (
        zipfile.ZipFile(world.place / "s.pth") as old,
        zipfile.ZipFile(world.place / "a.tar", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return ["import", world.place / "a.tar", "--as", "target:vgg16@celeba"]


def torchscript(world: World) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)), world.place / "a.tar")
    return ["import", world.place / "a.tar", "--as", "target:vgg16@celeba"]


def no_numbers(world: World) -> list[Any]:
    weights = state()
    weights["module.fc_layer.weight"] = weights["module.fc_layer.weight"] * float("nan")
    return bring(world, {"state_dict": weights})


def with_data(world: World) -> list[Any]:
    return [f"--set=dataset.root={world.tree('celeba')}", "--set=dataset.lists=given"]


def cut_off(world: World) -> list[Any]:
    given = bring(world, {"state_dict": state()})
    cut(world.place / "a.tar")
    return given


def one_tensor_less(world: World) -> list[Any]:
    weights = state()
    del weights["module.bn.running_mean"]
    return bring(world, {"state_dict": weights})


def evil_stylegan(world: World) -> list[Any]:
    content = pickle.dumps({"G_ema": Call(os.system, f"touch {world.place / 'owned'}"), "m": "torch_utils.persistence"})
    return bring(world, content, wanted="prior:stylegan2@ffhq", file="ffhq.pkl")


def network_saved_whole(world: World) -> list[Any]:
    network = nn.Sequential(nn.Linear(3, 2))
    return bring(world, network)


TENSORFLOW = pickle.dumps(("G", "D", "Gs"), protocol=2).replace(
    b"X\x01\x00\x00\x00G", b"cdnnlib.tflib.network\nNetwork\n", 1
)

IMPORT = [
    Row("evil pickle", evil, ("asks for posix.system", "nothing of it was run")),
    Row("zip bomb", zip_bomb, ("zip bomb",)),
    Row("HTML saved as .pth", lambda w: bring(w, HTML), ("quota page",)),
    Row("TorchScript", torchscript, ("TorchScript program", "mibench audit")),
    Row("network saved whole", network_saved_whole, ("whole network as an object", "save its state_dict")),
    Row(
        "IR152 as VGG16",
        lambda w: bring(w, {"state_dict": state(name="ir152")}),
        ("is no target vgg16", "it is ir152", "--as target:ir152@celeba"),
    ),
    Row(
        "VGG16 as IR152",
        lambda w: bring(w, {"state_dict": state()}, wanted="target:ir152@celeba"),
        ("is no target ir152", "it is VGG16", "--as target:vgg16@celeba"),
    ),
    Row(
        "judge's file as a target",
        lambda w: bring(w, state("judge", "facenet112"), wanted="target:facenet64@celeba"),
        ("is no target facenet64", "it is the judge FaceNet"),
    ),
    Row(
        "judge as target",
        lambda w: bring(w, state(), wanted="target:facenet112@celeba"),
        ("'facenet112' is a judge", "--as judge:facenet112@celeba"),
    ),
    Row(
        "wrong class count",
        lambda w: bring(w, state(classes=7), *with_data(w)),
        ("these weights have 7 classes, celeba has 4",),
    ),
    Row("weights that are no numbers", no_numbers, ("fc_layer.weight is not finite", "take another")),
    Row("one tensor missing", one_tensor_less, ("is no target vgg16: 1 missing (bn.running_mean)",)),
    Row("empty file", lambda w: bring(w, b""), ("is empty", "download it again")),
    Row("cut off", cut_off, ("cut off or damaged", "again")),
    Row(
        "safetensors with a lying header",
        lambda w: bring(w, struct.pack("<Q", 1 << 60) + b'{"'),
        ("its header claims", "the file has 10 bytes", "download it again"),
    ),
    Row("folder", lambda w: ["import", w.place, "--as", "target:vgg16@celeba"], ("is a folder", "name the file")),
    Row(
        "no such file",
        lambda w: ["import", "none.tar", "--as", "target:vgg16@celeba"],
        ("cannot read none.tar", "name a file of weights"),
    ),
    Row(
        "optimiser alone",
        lambda w: bring(w, {"optimizer": {"lr": 0.1}, "epoch": 3}),
        ("holds no weights, only optimizer, epoch", "name the file of the network"),
    ),
    Row("another hash", lambda w: bring(w, state(), "--sha256", "0" * 64), ("is another file", "expected 000")),
    Row(
        "data set damaged",
        lambda w: bring(w, state(), *damaged(w)),
        ("000004.jpg cannot be decoded", "download it again"),
    ),
    Row("unknown architecture", lambda w: bring(w, state(), wanted="target:vgg17@celeba"), ("did you mean 'vgg16'?",)),
    Row(
        "name without a data set",
        lambda w: bring(w, state(), wanted="target:vgg16"),
        ("say what it was trained on, such as target:vgg16@celeba",),
    ),
    Row(
        "StyleGAN of TensorFlow",
        lambda w: bring(w, TENSORFLOW, wanted="prior:stylegan2@ffhq", file="ffhq.pkl"),
        ("TensorFlow", "stylegan2-ada-pytorch"),
    ),
    Row("evil StyleGAN", evil_stylegan, ("posix.system",)),
    Row(
        "target as StyleGAN",
        lambda w: bring(w, state(), wanted="prior:stylegan2@ffhq"),
        ("a.tar holds no generator of StyleGAN2", "import a StyleGAN2-ADA network"),
    ),
    Row(
        "target as KEDMI's generator",
        lambda w: bring(w, state(), wanted="prior:kedmi@celeba+vgg16"),
        ("neither a generator nor a critic", "give the two files"),
    ),
]


def damaged(world: World) -> list[Any]:
    """The data set that the import would measure on has a damaged test image."""
    given = with_data(world)
    root = world.place / "celeba"
    cut(root / "img_align_celeba" / (root / "meta" / "testset.txt").read_text().split()[0])
    return given


# mibench run, in the toy world


def run(*more: Any) -> list[Any]:
    wanted = ["--attack=toyattack", "--dataset=toyfaces", "--protocol=toy", "--device=cpu", "--output=runs"]
    return ["run", *wanted, *(["--target=toynet"] if "--target=toyjudge" not in more else []), *more]


def weights(world: World, name: str = "toynet") -> Path:
    return world.home / "weights" / f"{name}_toyfaces.safetensors"


def card(world: World, name: str = "toynet") -> Path:
    return world.home / "cards" / f"{name}_toyfaces.yaml"


def as_on_the_card(world: World, content: bytes, name: str = "toynet") -> list[Any]:
    """Weights that agree with their card in hash and size, whatever they are."""
    weights(world, name).write_bytes(content)
    text = re.sub(r"sha256: .*", f"sha256: {hashlib.sha256(content).hexdigest()}", card(world, name).read_text())
    card(world, name).write_text(re.sub(r"bytes: .*", f"bytes: {len(content)}", text))
    return run()


def cut_weights(world: World) -> list[Any]:
    cut(weights(world))
    return run()


def swapped_weights(world: World) -> list[Any]:
    weights(world).write_bytes(weights(world, "toygan").read_bytes())
    return run()


def lying_header(world: World) -> list[Any]:
    return as_on_the_card(world, struct.pack("<Q", 1 << 60) + b"{}")


def weights_of_the_prior(world: World) -> list[Any]:
    return as_on_the_card(world, weights(world, "toygan").read_bytes())


def weights_that_are_no_numbers(world: World) -> list[Any]:
    from safetensors.torch import load, save

    tensors = {name: value.float() * float("nan") for name, value in load(weights(world).read_bytes()).items()}
    return as_on_the_card(world, save(tensors))


def page_as_weights(world: World) -> list[Any]:
    return as_on_the_card(world, HTML)


def too_many_classes(world: World) -> list[Any]:
    edit(
        card(world),
        lambda lines: lines.__setitem__(slice(None), [re.sub("^classes: 6", "classes: 7", s) for s in lines]),
    )
    return run()


def card_that_is_no_card(world: World) -> list[Any]:
    card(world).write_text("name: [toynet\n")
    return run()


def output_that_is_a_file(world: World) -> list[Any]:
    return run(f"--output={world.file('file', b'')}")


def configuration_twice(world: World) -> list[Any]:
    return run(f"--config={world.file('c.yaml', b'attack: toyattack' + bytes([10]) + b'attack: floor')}")


RUN = [
    Row("judge as target", lambda w: run("--target=toyjudge"), ("is a judge, it can never be chosen",)),
    Row("weights cut off", cut_weights, ("are not the ones on their card", "corrupt or swapped file", "restore it")),
    Row("weights swapped", swapped_weights, ("are not the ones on their card", "corrupt or swapped file")),
    Row("safetensors with a lying header", lying_header, ("is not a safetensors file", "train it again")),
    Row("weights of another network", weights_of_the_prior, ("do not fit toynet", "Likely cause")),
    Row(
        "weights that are no numbers",
        weights_that_are_no_numbers,
        ("'toynet@toyfaces' are not finite", "holds NaN", "train it again"),
    ),
    Row("HTML saved as safetensors", page_as_weights, ("is not a safetensors file", "restore it")),
    Row("wrong class count", too_many_classes, ("has 7 classes, toyfaces has 6", "choose weights")),
    Row("card that is no YAML", card_that_is_no_card, ("toynet_toyfaces.yaml", "not valid YAML")),
    Row("output that is a file", output_that_is_a_file, ("cannot write", "--output")),
    Row("configuration with a key twice", configuration_twice, ("'attack' stands twice",)),
    Row("unknown preset", lambda w: run("--preset=papre"), ("did you mean 'paper'?",)),
]


# mibench fetch: what lies there already, without a server; tests/test_fetch_refusals.py has the servers


def asset(world: World, content: bytes) -> list[Any]:
    (world.place / "pt_inception-2015-12-05-6726825d.pth").write_bytes(content)
    return ["fetch", "inception", "--to", world.place]


FETCH = [
    Row("unknown file", lambda w: ["fetch", "incption"], ("did you mean 'inception'?", "--list")),
    Row(
        "offline and not here",
        lambda w: ["fetch", "inception", "--offline"],
        ("offline", "pt_inception-2015-12-05-6726825d.pth", "sha256 6726825d0af5", "run `mibench fetch inception`"),
    ),
    Row("HTML saved as .pth", lambda w: asset(w, HTML), ("quota is used up", "fetch it again")),
    Row("empty file", lambda w: asset(w, b""), ("an empty file", "fetch it again")),
    Row(
        "another file", lambda w: asset(w, b"PK\x03\x04" + bytes(600)), ("its sha256 is", "published", "fetch it again")
    ),
    Row("hash that is none", lambda w: ["fetch", "inception", "--sha256", "12"], ("'12' is not a sha256",)),
    Row(
        "folder that is a file", lambda w: ["fetch", "inception", "--to", w.file("file", b"")], ("cannot write", "--to")
    ),
]
