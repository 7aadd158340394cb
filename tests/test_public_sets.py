"""FFHQ, MetFaces, AFHQ: public images only, their order, their crops."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mibench.cli.data import data as data_group
from mibench.data.datasets.afhq import AFHQ
from mibench.data.datasets.ffhq import FFHQ, numbered
from mibench.data.datasets.metfaces import MetFaces
from mibench.data.fixtures.writer import write_fixture
from mibench.data.public_data import AllPublic
from mibench.data.verify import verify
from mibench.errors import MibenchError


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("public")
    write_fixture("ffhq", root / "ffhq", people=6, images=1)
    write_fixture("metfaces", root / "metfaces", people=4, images=1, size=64)
    write_fixture("afhq", root / "afhq", people=66, images=1, size=32)
    return root


def copy_of(tree: Path, place: Path) -> Path:
    for path in sorted(tree.rglob("*")):
        if path.is_file():
            target = place / path.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return place


def test_ffhq_thumbnails_are_cropped_to_the_middle_88(trees: Path) -> None:
    ffhq = FFHQ(root=str(trees / "ffhq"))
    found = ffhq.public(64)
    with Image.open(trees / "ffhq" / "thumbnails128x128" / "00000" / "00003.png") as picture:
        by_hand = picture.convert("RGB").crop((20, 20, 108, 108)).resize((64, 64), Image.Resampling.BILINEAR)
    assert torch.equal(found.pixels[3].permute(1, 2, 0), torch.from_numpy(np.array(by_hand)))
    assert found.identities[3] == "ffhq-thumbnails128x128/00000/00003"
    assert set(found.labels.tolist()) == {-1}
    assert len(set(found.identities)) == 6
    whole = FFHQ(root=str(trees / "ffhq"), crop=None)
    assert not torch.equal(whole.public(64).pixels, found.pixels)
    assert whole.digest != ffhq.digest


def test_the_order_of_ffhq_is_that_of_the_released_list() -> None:
    released = "".join(f"{name}\n" for name in numbered(70_000))
    assert (
        hashlib.sha256(released.encode()).hexdigest()
        == "1f740b5f95aa6aa8a1ef9f610f824812cc949d0b7383862a6556a561e958282a"
    )


def test_large_pictures_are_cropped_in_proportion(tmp_path: Path) -> None:
    write_fixture("ffhq", tmp_path / "f", people=1, images=1, size=1024)
    large = FFHQ(root=str(tmp_path / "f"), variant="images1024x1024")
    assert large.framing.crop == 704
    assert large.framing.expected == (1024, 1024)
    small = FFHQ(root=str(tmp_path / "f")).public(32).pixels.float()
    assert (large.public(32).pixels.float() - small).abs().mean() < 4, "the same scene"


def test_a_gap_in_ffhq_is_noticed_and_moves_nobody(trees: Path, tmp_path: Path) -> None:
    root = copy_of(trees / "ffhq", tmp_path / "f")
    before = FFHQ(root=str(root)).public(64).pixels
    (root / "thumbnails128x128" / "00000" / "00002.png").unlink()
    with pytest.raises(MibenchError, match=r"lacks 1 of the 6 listed images \(first: thumbnails128x128/00000/00002"):
        FFHQ(root=str(root))
    after = FFHQ(root=str(root), missing="skip").public(64)
    assert torch.equal(after.pixels, before[[0, 1, 3, 4, 5]])
    assert after.identities[2].endswith("00003")
    with pytest.raises(MibenchError, match="lacks 2 of the 7"):
        FFHQ(root=str(root), images=7)
    assert len(FFHQ(root=str(root), images=2).public(16)) == 2


def test_copies_of_ffhq_without_inner_folders_are_the_same_data_set(trees: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat" / "thumbnails128x128"
    flat.mkdir(parents=True)
    for path in (trees / "ffhq" / "thumbnails128x128").rglob("*.png"):
        (flat / path.name).write_bytes(path.read_bytes())
    one, other = FFHQ(root=str(trees / "ffhq")), FFHQ(root=str(flat.parent))
    assert one.digest == other.digest
    assert torch.equal(one.public(32).pixels, other.public(32).pixels)


def test_a_picture_of_another_size_is_refused(trees: Path, tmp_path: Path) -> None:
    root = copy_of(trees / "ffhq", tmp_path / "f")
    Image.new("RGB", (64, 64)).save(root / "thumbnails128x128" / "00000" / "00001.png")
    with pytest.raises(MibenchError, match=r"00001\.png is 64x64, expected 128x128"):
        FFHQ(root=str(root)).public(32)


@pytest.mark.parametrize(("settings", "message"), [({"crop": 129}, "1 to 128"), ({"images": 70_001}, r"\[0, 70000\]")])
def test_settings_of_ffhq_have_ranges(trees: Path, settings: dict[str, int], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        FFHQ(root=str(trees / "ffhq"), **settings)  # type: ignore[arg-type]


def test_public_sets_are_nobodys_classes(trees: Path) -> None:
    for split in (
        FFHQ(root=str(trees / "ffhq")),
        MetFaces(root=str(trees / "metfaces")),
        AFHQ(root=str(trees / "afhq")),
    ):
        assert split.num_classes == 0
        assert split.people("private") == frozenset()
        assert len(split.people("public")) == split.public_count() == len(split.public(16))
        with pytest.raises(MibenchError, match="has public images only"):
            split.private("train", 32)


def test_afhq_takes_one_animal_and_part(trees: Path, tmp_path: Path) -> None:
    dogs = AFHQ(root=str(trees / "afhq"))
    assert all("train/dog/" in row.name for row in dogs.rows("public"))
    assert dogs.public_count() == 20
    assert AFHQ(root=str(trees / "afhq"), animal="cat", part="val").public_count() == 2
    second = copy_of(trees / "afhq", tmp_path / "a")
    (second / "val").rename(second / "test")
    assert AFHQ(root=str(second), part="val").public_count() == 2, "the second version says test"
    assert len({AFHQ(root=str(trees / "afhq"), animal=a).digest for a in ("cat", "dog", "wild")}) == 3  # type: ignore[arg-type]


def test_hidden_files_are_passed_over(trees: Path, tmp_path: Path) -> None:
    root = copy_of(trees / "metfaces", tmp_path / "m")
    (root / "images" / "._000010-00.png").write_bytes(b"resource fork")
    (root / "images" / "readme.txt").write_text("no image")
    assert MetFaces(root=str(root)).digest == MetFaces(root=str(trees / "metfaces")).digest


@pytest.mark.parametrize("kind", [FFHQ, MetFaces, AFHQ])
def test_a_missing_data_set_is_one_line(
    kind: type[FFHQ] | type[MetFaces] | type[AFHQ], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path))
    with pytest.raises(MibenchError, match=f"{kind.name} is not complete at {tmp_path / kind.name}") as caught:
        kind()
    assert "\n" not in str(caught.value)
    assert "MIBENCH_DATA" in str(caught.value)


def test_verify_says_that_a_set_is_not_whole(trees: Path) -> None:
    for kind in (FFHQ, MetFaces, AFHQ):
        findings = verify(kind, {"root": str(trees / kind.name)}, full=True)
        assert not [finding for finding in findings if finding.level == "wrong"]
        assert any(finding.level == "note" and "unpack" in finding.cure for finding in findings)


def test_everybody_of_ffhq_can_be_framed_for_another_protocol(trees: Path) -> None:
    from mibench.data.images import Framing

    ffhq = FFHQ(root=str(trees / "ffhq"))
    framed = AllPublic(ffhq, Framing(crop=None, expected=(128, 128)))
    assert torch.equal(framed.public(32).pixels, FFHQ(root=str(trees / "ffhq"), crop=None).public(32).pixels)


def test_a_preview_of_a_public_set_shows_its_images(trees: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    out = tmp_path / "p.png"
    arguments = ["preview", "ffhq", "--set", f"dataset.root={trees / 'ffhq'}", "--images", "3", "--output", str(out)]
    done = CliRunner().invoke(data_group, arguments)
    assert done.exit_code == 0, done.output
    with Image.open(out) as picture:
        assert picture.width > 3 * 64
