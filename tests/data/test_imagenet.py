"""ImageNet: RobustBench's images in its order, with its preprocessing; what incomplete folders give."""

import hashlib
import json
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from igd_ray.data import LabeledImages, load_images
from igd_ray.errors import InputError
from igd_ray.models.zoo import robustbench_modules

SPEC = find_spec("robustbench")
assert SPEC is not None
assert SPEC.origin is not None
HELPERS = Path(SPEC.origin).parent / "helper_files"
LISTED = (HELPERS / "imagenet_test_image_ids.txt").read_text().split()
LABELS: dict[str, int] = json.loads((HELPERS / "imagenet_class_to_id_map.json").read_text())

# Wide, tall, smaller than the crop, and of odd sides.
SIZES = [(300, 260), (240, 333), (97, 120), (257, 513)]


def save(path: Path, size: tuple[int, int], *, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size).convert(mode).save(path, format="JPEG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The first four images of the list; the fourth is grey."""
    # The list goes on for thousands of images more; only as many as there are sizes are made.
    for name, size in zip(LISTED, SIZES, strict=False):
        save(tmp_path / "val" / name, size, mode="L" if name == LISTED[3] else "RGB")
    return tmp_path


def first_four(root: Path, option: str = "", split: str = "test") -> LabeledImages:
    return load_images(f"imagenet:{root}{option}", split=split, n=4)


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_images_are_the_first_of_robustbench_s_list(root: Path, split: str) -> None:
    data = first_four(root, split=split)
    assert data.labels.tolist() == [LABELS[name.split("/")[0]] for name in LISTED[:4]]
    digest = hashlib.sha256((root / "val" / LISTED[1]).read_bytes()).hexdigest()[:8]
    assert data.ids[1] == f"val/{LISTED[1]}-Res256Crop224-{digest}"
    assert data.shape == (3, 224, 224)


def test_labels_count_the_sorted_wordnet_ids_and_have_names() -> None:
    assert [LABELS[wnid] for wnid in sorted(LABELS)] == list(range(1000))
    assert len(LISTED) == len(set(LISTED)) == 5000


def test_every_class_has_a_name_of_its_own(root: Path) -> None:
    names = first_four(root).class_names
    assert len(set(names)) == 1000
    assert (names[0], names[1], names[999]) == ("tench", "goldfish", "toilet tissue")


@pytest.mark.parametrize(
    ("option", "reference"),
    [
        ("", [transforms.Resize(256), transforms.CenterCrop(224)]),
        ("?preprocessing=Res256Crop224", [transforms.Resize(256), transforms.CenterCrop(224)]),
        (
            "?preprocessing=BicubicRes256Crop224",
            [transforms.Resize(256, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)],
        ),
        ("?preprocessing=Res224", [transforms.Resize([224, 224])]),
        ("?preprocessing=Crop288", [transforms.CenterCrop(288)]),
    ],
)
def test_pixels_are_torchvision_s(root: Path, option: str, reference: list[object]) -> None:
    transform = transforms.Compose([*reference, transforms.ToTensor()])
    expected = [transform(Image.open(root / "val" / name).convert("RGB")) for name in LISTED[:4]]
    assert torch.equal(first_four(root, option).images, torch.stack(expected))


@pytest.mark.slow  # importing robustbench takes seconds
@pytest.mark.parametrize("name", ["Res256Crop224", "BicubicRes256Crop224", "Res224", "Crop288"])
def test_images_and_labels_are_those_of_robustbench_s_loader(root: Path, name: str) -> None:
    robustbench_modules()
    from robustbench.data import PREPROCESSINGS
    from robustbench.loaders import CustomImageFolder

    for wnid in LABELS:
        (root / "val" / wnid).mkdir(exist_ok=True)  # its labels count the folders that are there
    reference = CustomImageFolder(str(root / "val"), PREPROCESSINGS[name])
    expected = [reference[position] for position in range(4)]
    data = first_four(root, f"?preprocessing={name}")
    assert len(reference) == 5000
    assert torch.equal(data.images, torch.stack([image for image, _, _ in expected]))
    assert data.labels.tolist() == [label for _, label, _ in expected]


def test_another_preprocessing_gives_other_ids(root: Path) -> None:
    assert not set(first_four(root).ids) & set(first_four(root, "?preprocessing=Res224").ids)


def test_a_copy_reads_the_same_images_from_another_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    copy = pickle.dumps(first_four(Path(root.name)))
    monkeypatch.chdir(root)
    assert torch.equal(pickle.loads(copy).images, first_four(root).images)


def test_training_classes_take_turns(root: Path) -> None:
    for wnid in LABELS:
        (root / "train" / wnid).mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_1.JPEG").write_bytes(wnid.encode())  # listed, not decoded
    save(root / "train" / "n01440764" / "n01440764_2.JPEG", (300, 300))
    data = load_images(f"imagenet:{root}", split="train")
    assert data.labels.tolist() == [*range(1000), 0]
    assert [image_id.split("-")[0] for image_id in data.ids[-2:]] == [
        "train/n15075141/n15075141_1.JPEG",
        "train/n01440764/n01440764_2.JPEG",
    ]
    assert data.select([1000]).shape == (3, 224, 224)
    with pytest.raises(InputError, match=r"n01440764_1\.JPEG: expected a BMP, JPEG"):
        next(data.batches(1))
    (root / "train" / "n01443537" / "n01443537_1.JPEG").unlink()
    with pytest.raises(InputError, match=r"n01443537: expected images of this class"):
        load_images(f"imagenet:{root}", split="train")
    (root / "train" / "n01443537").rmdir()
    with pytest.raises(InputError, match=r"n01443537: expected a class folder for each of the 1000"):
        load_images(f"imagenet:{root}", split="train", n=1)


def test_a_missing_file_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=LISTED[4]):
        load_images(f"imagenet:{root}", n=5)
    with pytest.raises(InputError, match="has 5000 images, but 5001 were asked for"):
        load_images(f"imagenet:{root}", n=5001)


def test_a_file_that_changes_after_it_was_listed_is_refused(root: Path) -> None:
    data = first_four(root)
    save(root / "val" / LISTED[0], (30, 30))
    with pytest.raises(InputError, match="has changed since"):
        next(data.batches(4))


@pytest.mark.parametrize(
    ("spec", "split", "message"),
    [
        ("imagenet", "test", "names no folder; write imagenet:DIR"),
        ("imagenet:{root}/none", "test", "expected a folder with train and val"),
        ("imagenet:{root}", "train", "train: expected the extracted images"),
        ("imagenet:{root}", "tset", "must be one of train, test, val, not 'tset'; did you mean 'test'"),
        ("imagenet:{root}?preprocessing=Res25Crop224", "test", "not 'Res25Crop224'; did you mean 'Res256Crop224'"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(root: Path, spec: str, split: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_images(spec.format(root=root), split=split, n=1)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_the_user_s_own_must_be_a_thousand(root: Path) -> None:
    names = [f"class {label}" for label in range(1000)]
    assert load_images(f"imagenet:{root}", n=1, class_names=names).class_names == tuple(names)
    with pytest.raises(InputError, match="has 1000 classes, but 999 names"):
        load_images(f"imagenet:{root}", n=1, class_names=names[1:])
