"""A factory's file may import modules of its own folder: they are found, kept apart, and part of the model."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from igd_ray.errors import InputError
from igd_ray.models import load_model, model_fingerprint, model_sources
from igd_ray.models.sources import sources_digest

FILES = {
    "net.py": """
import random
import torch
from blocks import Block

def net():
    return Block()

def late():
    import factors
    model = Block()
    model.factor = factors.FACTOR
    return model
""",
    "blocks.py": """
from torch import nn
import factors as numbers
from shapes import *

class Block(nn.Linear):
    def __init__(self):
        super().__init__(SIDE * SIDE, 2)
        self.factor = 1.0

    def forward(self, x):
        import factors  # when it runs, long after loading
        assert factors is numbers
        return super().forward(x.flatten(1)) * factors.FACTOR
""",
    "factors.py": "FACTOR = 3.0\n",
    "shapes.py": "import blocks\nSIDE = 2\n",
    "random.py": "raise AssertionError('stands before the library')\n",
    "unused.py": "raise AssertionError('imported by nobody')\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A factory with modules beside it, and weights."""
    made = tmp_path / "code"
    made.mkdir()
    for name, text in FILES.items():
        (made / name).write_text(text)
    torch.manual_seed(0)
    torch.save(nn.Linear(4, 2).state_dict(), made / "weights.pt")
    return made


def load(folder: Path, factory: str = "net") -> nn.Module:
    return load_model(f"{folder}/net.py:{factory}", weights=folder / "weights.pt")


def test_what_a_file_imports_from_its_folder_is_found_without_running_it(folder: Path) -> None:
    assert list(model_sources(folder / "net.py")) == ["net", "blocks", "factors", "shapes"]
    assert set(model_sources(folder / "net.py").values()) == {
        folder / f"{name}.py" for name in ("net", "blocks", "factors", "shapes")
    }
    assert list(model_sources(folder / "factors.py")) == ["factors"]
    (folder / "broken.py").write_text("def (")
    assert list(model_sources(folder / "broken.py")) == ["broken"]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.py: No such file or directory"):
        model_sources(tmp_path / "none.py")


def test_a_model_of_several_files_computes_what_they_say(folder: Path) -> None:
    state = torch.load(folder / "weights.pt")
    x = torch.rand(5, 1, 2, 2)
    expected = 3 * (x.flatten(1) @ state["weight"].T + state["bias"])
    torch.testing.assert_close(load(folder)(x), expected)
    assert load(folder, "late").factor == 3.0


def test_equal_names_in_two_folders_do_not_mix_and_nothing_else_sees_them(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "factors.py").write_text("FACTOR = 6.0\n")
    x = torch.rand(5, 1, 2, 2)
    one, two = load(folder), load(other)
    torch.testing.assert_close(two(x), 2 * one(x))
    torch.testing.assert_close(load(folder)(x), one(x))
    assert not {"blocks", "factors", "shapes"} & set(sys.modules)
    assert str(folder) not in sys.path


def test_a_copy_in_another_folder_is_the_same_model(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert model_fingerprint(load(tmp_path / "copy")) == model_fingerprint(load(folder))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("factors.py", lambda text: text.replace("3.0", "4.0")),
        ("shapes.py", lambda text: text + "DEPTH = 1\n"),
        ("blocks.py", lambda text: text + "\n\ndef helper():\n    return 1\n"),
        ("net.py", lambda text: text + "\n\ndef helper():\n    return 1\n"),
    ],
)
def test_every_file_is_part_of_the_identity(folder: Path, name: str, change: Callable[[str], str]) -> None:
    before = model_fingerprint(load(folder))
    (folder / name).write_text(change((folder / name).read_text()))
    assert model_fingerprint(load(folder)) != before


def test_a_file_that_is_not_imported_is_not_part_of_it(folder: Path) -> None:
    before = model_fingerprint(load(folder))
    (folder / "unused.py").write_text("changed = True\n")
    assert model_fingerprint(load(folder)) == before


def test_a_file_alone_is_named_by_its_content_as_ever(tmp_path: Path) -> None:
    source = "from torch import nn\n\n\nclass Net(nn.Linear):\n    pass\n\n\ndef net():\n    return Net(4, 2)\n"
    (tmp_path / "net.py").write_text(source)
    digest = hashlib.sha256(source.encode()).hexdigest()
    assert sources_digest(model_sources(tmp_path / "net.py")) == digest
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "weights.pt")
    assert type(load(tmp_path)).__module__ == f"igd_model_net_{digest[:8]}"


def test_a_module_beside_that_cannot_be_imported_is_one_line(folder: Path) -> None:
    (folder / "factors.py").write_text("FACTOR = 1 / 0\n")
    with pytest.raises(InputError, match=r"net\.py cannot be imported: ZeroDivisionError: division by zero"):
        load(folder)
    (folder / "factors.py").write_text("FACTOR = 1.0\n")
    assert load(folder) is not None
