"""FaceScrub: labels by sorted names, actors first; a split that survives missing files, one that does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mibench.data.datasets.celeba import CelebA
from mibench.data.datasets.class_folders import released_shuffle
from mibench.data.datasets.facescrub import FaceScrub
from mibench.data.fixtures.writer import write_fixture
from mibench.data.verify import verify
from mibench.errors import MibenchError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("facescrub") / "tree"
    write_fixture("facescrub", root, people=6, images=12, size=40)
    return root


@pytest.fixture
def tree(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "facescrub"))


def made(root: Path, **settings: object) -> FaceScrub:
    return FaceScrub(root=str(root), **{"classes": 6, **settings})  # type: ignore[arg-type]


def parts(split: FaceScrub) -> dict[str, str]:
    return {row.name: role for role in ("train", "test") for row in split.rows(role)}  # type: ignore[arg-type]


def test_actors_come_before_actresses_by_sorted_name(tree: Path) -> None:
    split = made(tree)
    actors = sorted(path.name for path in (tree / "actors" / "faces").iterdir())
    actresses = sorted(path.name for path in (tree / "actresses" / "faces").iterdir())
    assert split.class_names == (*actors, *actresses)
    for row in (*split.rows("train"), *split.rows("test")):
        group, _, name, _ = row.name.split("/")
        assert row.label == split.class_names.index(name)
        assert (group == "actors") == (row.label < 3)
        assert row.identity == f"facescrub-{name}"
    assert split.num_classes == 6
    images = split.private("train", 32)
    assert images.labels.tolist() == sorted(images.labels.tolist())
    assert images.pixels.shape[1:] == (3, 32, 32)


def test_uncropped_pictures_lie_beside_the_faces(tree: Path) -> None:
    for group in ("actors", "actresses"):
        shutil.copytree(tree / group / "faces", tree / group / "images")
    faces, pictures = made(tree), made(tree, pictures="images")
    assert {row.name.split("/")[1] for row in pictures.rows("train")} == {"images"}
    assert {row.name.split("/")[1] for row in faces.rows("train")} == {"faces"}
    assert pictures.class_names == faces.class_names
    assert pictures.digest != faces.digest


def test_a_missing_file_moves_no_other_in_the_split_by_hash(tree: Path) -> None:
    before = parts(made(tree))
    gone = [name for name in before if before[name] == "train"][::7]
    for name in gone:
        (tree / name).unlink()
    after = parts(made(tree))
    assert after == {name: role for name, role in before.items() if name not in gone}
    assert set(before.values()) == {"train", "test"}


def test_everybody_has_train_and_test_images(tree: Path) -> None:
    split = made(tree)
    for role in ("train", "test"):
        assert {row.label for row in split.rows(role)} == set(range(6))  # type: ignore[arg-type]


def test_the_released_shuffle_is_numpys_with_seed_42(tree: Path) -> None:
    split = made(tree, split="released")
    everything = sorted(parts(split), key=lambda name: (not name.startswith("actors/"), name))
    order = list(range(72))
    np.random.seed(42)  # noqa: NPY002 (what the released code calls)
    np.random.shuffle(order)  # noqa: NPY002
    assert [row.name for row in split.rows("train")] == [everything[place] for place in order[:64]]
    assert [row.name for row in split.rows("test")] == [everything[place] for place in order[64:]]
    assert split.digest != made(tree).digest
    # where the trap lies: one file fewer deals out the others anew
    name = split.rows("train")[0].name
    before = {key: role for key, role in parts(split).items() if key != name}
    (tree / name).unlink()
    assert parts(made(tree, split="released")) != before
    assert any("released shuffle" in finding.what for finding in made(tree, split="released").remarks())


def test_the_published_counts_follow_from_the_shuffle() -> None:
    train, test = released_shuffle(34_090 + 3_788)
    assert (len(train), len(test)) == (34_090, 3_788)
    assert not set(train) & set(test)


def test_a_missing_person_is_refused_because_labels_would_move(tree: Path) -> None:
    shutil.rmtree(tree / "actors" / "faces" / made(tree).class_names[0])
    with pytest.raises(MibenchError, match=r"has 5 people, expected 6: .*--set dataset\.classes=5"):
        made(tree)
    assert made(tree, classes=5).num_classes == 5
    with pytest.raises(MibenchError, match="has 5 people, expected 530"):
        FaceScrub(root=str(tree))


def test_an_empty_person_is_refused(tree: Path) -> None:
    name = made(tree).class_names[1]
    folder = tree / "actors" / "faces" / name
    for path in sorted(folder.iterdir())[1:]:
        path.unlink()
    with pytest.raises(MibenchError, match=f"{name} has 1 image: a class needs two"):
        made(tree)
    next(folder.iterdir()).unlink()
    with pytest.raises(MibenchError, match=f"{name} has no images: a class needs two"):
        made(tree)


def test_somebody_in_both_groups_is_refused(tree: Path) -> None:
    name = made(tree).class_names[0]
    shutil.copytree(tree / "actors" / "faces" / name, tree / "actresses" / "faces" / name)
    with pytest.raises(MibenchError, match=f"{name} stand among actors and actresses"):
        made(tree)


def test_other_files_are_passed_over_and_named(tree: Path) -> None:
    before = made(tree).digest
    person = tree / "actors" / "faces" / made(tree).class_names[0]
    (tree / "actors" / "faces" / ".DS_Store").write_bytes(b"")
    (person / "Thumbs.db").write_bytes(b"")
    (person / "more").mkdir()
    split = made(tree)
    assert split.digest == before
    said = " ".join(finding.what for finding in split.remarks())
    assert "first: .DS_Store" in said
    assert "first: Thumbs.db" in said
    assert "folders inside class folders" in said


def test_a_link_that_leads_nowhere_is_named(tree: Path) -> None:
    (tree / "actors" / "faces" / made(tree).class_names[0] / "x.jpg").symlink_to("/nowhere/x.jpg")
    with pytest.raises(MibenchError, match=r"x\.jpg is a link that leads nowhere"):
        made(tree)


def test_a_truncated_jpeg_is_named_by_verify(tree: Path) -> None:
    row = next(row for row in made(tree).rows("train") if row.name.endswith("jpg"))
    content = (tree / row.name).read_bytes()
    (tree / row.name).write_bytes(content[: len(content) // 2])
    findings = verify(FaceScrub, {"root": str(tree), "classes": 6}, full=True)
    wrong = [finding for finding in findings if finding.level == "wrong"]
    assert len(wrong) == 1
    assert row.name in wrong[0].what
    assert "unpack or download it again" in wrong[0].cure


def test_groups_that_lie_elsewhere_are_found_by_verify(tree: Path) -> None:
    (tree / "actresses" / "faces").rename(tree / "faces")
    findings = verify(FaceScrub, {"root": str(tree)})
    assert any(finding.level == "wrong" and "actresses/faces is missing" in finding.what for finding in findings)


def test_facescrub_has_no_public_images_of_its_own(tree: Path, tmp_path: Path) -> None:
    split = made(tree)
    assert split.public_count() == 0
    assert len(split.public(32, 0)) == 0
    with pytest.raises(MibenchError, match="no public images of its own"):
        split.public(32)
    with pytest.raises(MibenchError, match=r"ffhq is not complete at .*--set dataset\.public_root=FOLDER"):
        made(tree, public_from="ffhq", public_root=str(tmp_path / "none"))
    write_fixture("ffhq", tmp_path / "ffhq", people=3, images=1, size=1024)
    with_ffhq = made(tree, public_from="ffhq", public_root=str(tmp_path / "ffhq"))
    assert len(with_ffhq.public(32)) == 3
    assert with_ffhq.public_source is not None
    assert with_ffhq.public_source.framing.crop == 800, "what PPA keeps of a portrait of 1024 pixels"  # type: ignore[attr-defined]
    assert with_ffhq.digest != split.digest
    with_ffhq.check_disjoint()


def test_crops_of_64_pixels_may_be_cropped_to_54_as_kedmi_does(tmp_path: Path) -> None:
    root = tmp_path / "f"
    for group in ("actors", "actresses"):
        folder = root / group / "faces" / f"{group} one"
        folder.mkdir(parents=True)
        for number in range(2):
            Image.effect_noise((64, 64), 80).convert("RGB").save(folder / f"{number}.png")
    kedmi, lomma = (FaceScrub(root=str(root), classes=2, crop=crop) for crop in (54, None))
    first = kedmi.rows("train")[0].name
    with Image.open(root / first) as picture:
        by_hand = np.array(picture.convert("RGB").crop((5, 5, 59, 59)).resize((64, 64), Image.Resampling.BILINEAR))
        whole = np.array(picture.convert("RGB"))
    assert np.array_equal(kedmi.private("train", 64).pixels[0].permute(1, 2, 0).numpy(), by_hand)
    assert np.array_equal(lomma.private("train", 64).pixels[0].permute(1, 2, 0).numpy(), whole)


def test_facescrub_gives_public_images_for_celeba(tree: Path, tmp_path: Path) -> None:
    write_fixture("celeba", tmp_path / "celeba", people=2, images=3)
    split = CelebA(
        root=str(tmp_path / "celeba"), lists="given", public_from="facescrub", public_root=str(tree), public_crop="none"
    )
    assert len(split.public(64)) == 72
    assert split.people("public") == made(tree).people("private")
