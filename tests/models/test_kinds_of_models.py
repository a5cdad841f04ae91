"""Kinds of models that people bring: each is evaluated, or refused with the line that stands here."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.errors import InputError
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.units.attack import AttackUnit
from igd_ray.verbs.evaluate import evaluate
from tests.data.encoded import png
from tests.models.kinds import plain
from tests.toys.sessions import session_for

KINDS = Path(__file__).with_name("kinds.py")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Grey 8×8 images of two, three and a thousand classes: the labels of the first files are those of the last."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, rows in (("train", 24), ("test", 4)):
        images = [{"bytes": png(random.integers(0, 255, (8, 8), dtype=np.uint8)), "path": None} for _ in range(rows)]
        for classes in (2, 3, 1000):
            labels = [row % min(classes, 3) for row in range(rows - 1)] + [classes - 1]
            (folder / str(classes)).mkdir(exist_ok=True)
            pq.write_table(pa.table({"image": images, "label": labels}), folder / str(classes) / f"{split}.parquet")
    return f"parquet:{folder}/{{}}/{{{{split}}}}.parquet"


def given(data: str, catalog: Path, factory: str, classes: int = 3, **changes: object) -> dict[str, object]:
    return {
        "model": f"{KINDS}:{factory}",
        "weights": "own",
        "data": data.format(classes),
        "catalog": str(catalog),
        "n": 4,
        "probe_n": 20,
        "search_n": 4,
        "attacks": "apgd-ce-2",
        "eps": "8/255",
        **changes,
    }


# Factory, further settings, and whether there is a layer to mask.
EVALUATED = [
    ("plain", {}, True),
    ("plain", {"weights": "{weights}"}, True),
    ("as_tuple", {"output": "0"}, True),
    ("as_list", {"output": "1"}, True),
    ("as_named_tuple", {"output": "0"}, True),
    ("as_dict", {"output": "logits"}, True),
    ("as_object", {"output": "logits"}, True),
    ("in_float64", {}, True),
    ("in_float16", {}, True),
    ("in_bfloat16", {}, True),
    ("halves_that_cast_nothing", {}, True),
    ("casts_to_its_own_type", {}, True),
    ("float64_constants", {}, True),
    ("autocast", {}, True),
    ("complex_numbers", {}, True),
    ("probabilities", {}, True),
    ("log_probabilities", {}, True),
    ("temperature", {}, True),
    ("compiled", {}, True),
    ("compiled_inside", {}, True),
    ("compiled_in_place", {}, True),
    ("compiled_forward", {}, True),
    ("parallel", {}, True),
    ("parallel_and_compiled", {}, True),
    ("scripted", {}, False),
    ("dropout", {}, True),
    ("dropout_in_forward", {}, True),
    ("shared_weights", {}, True),
    ("layer_used_twice", {}, True),
    ("in_place_behind_the_head", {}, True),
    ("weight_norm", {}, True),
    ("no_parameters", {}, False),
    ("transformer", {}, True),
    ("convolutional_head", {}, True),
]


@pytest.mark.parametrize(("factory", "changes", "has_layer"), EVALUATED, ids=str)
def test_this_kind_is_evaluated(
    factory: str, changes: dict[str, object], has_layer: bool, data: str, tmp_path: Path
) -> None:
    if "weights" in changes:
        torch.save({"state_dict": plain().state_dict(), "epoch": 3}, tmp_path / "plain.pt")
        changes = {"weights": str(tmp_path / "plain.pt")}
    defenses = "none,loir-2" if has_layer else "none"
    settings = load_settings(
        EvaluateSettings, file=None, given=given(data, tmp_path / "results", factory, defenses=defenses, **changes)
    )
    with session_for(settings) as session:
        plan = plan_evaluation(session.workspace)
        summary = evaluate(session, plan)
        units = [unit for unit in plan.units if isinstance(unit, AttackUnit)]
        rows = [row for unit in units for row in session.workspace.catalog.read("outcomes", unit.key).to_pylist()]
    assert not summary.failed
    assert {row["defense"] for row in rows} == set(defenses.split(","))
    assert {row["status"] for row in rows} <= {"robust", "broken", "misclassified"}


@pytest.mark.parametrize("classes", [2, 1000])
def test_any_number_of_classes_is_evaluated(classes: int, data: str, tmp_path: Path) -> None:
    changes = {"model_arg": {"classes": classes}, "attacks": "aa", "n": 1}
    settings = load_settings(
        EvaluateSettings, file=None, given=given(data, tmp_path / "results", "plain", classes, **changes)
    )
    with session_for(settings) as session:
        assert not evaluate(session, plan_evaluation(session.workspace)).failed


REFUSED = [
    (
        "as_tuple",
        {},
        "must return float logits [B, C], not tuple of 2; say which output holds them, by key or position",
    ),
    ("as_dict", {}, "must return float logits [B, C], not dict with 'logits', 'loss'; say which output"),
    ("as_dict", {"output": "loss"}, "must return float logits [B, C], not float32 []"),
    ("as_dict", {"output": "logit"}, "--output logit: the model returns dict with 'logits', 'loss'"),
    ("as_tuple", {"output": "2"}, "--output 2: the model returns tuple of 2"),
    ("as_tuple", {"output": "-1"}, "--output -1: the model returns tuple of 2"),
    ("plain", {"output": "0"}, "--output 0: the model returns float32 [1, 3]"),
    ("as_object", {"output": "scores"}, "--output scores: the model returns Attributes"),
    ("nothing", {}, "must return float logits [B, C], not NoneType"),
    ("labels", {}, "must return float logits [B, C], not int64 [1]"),
    ("one_axis", {}, "must return float logits [B, C], not float32 [3]"),
    ("casts_to_another_type", {}, "it was given float16 images, the type of its parameters: return it as float32"),
    ("minus_infinity", {}, "gives NaN or infinite logits on the first image"),
    ("not_a_number", {}, "gives NaN or infinite logits on the first image"),
    ("turns_to_training", {}, "puts inner into training mode in its forward pass"),
    ("own_statistics", {}, "changes mean in its forward pass"),
    ("counts_its_calls", {}, "changes calls in its forward pass"),
    ("three_channels", {}, "cannot take images [1, 8, 8]"),
    ("larger_images", {}, "cannot take images [1, 8, 8]"),
    ("plain", {"model_arg": {"classes": 7}}, "has 7 classes, the data 3; choose a matching pair"),
    ("random_weights", {}, "two calls of the factory give different weights"),
    ("leaves", {}, "calls sys.exit or os._exit (status 0)"),
    ("leaves_at_once", {}, "calls sys.exit or os._exit (status 0)"),
    ("leaves_in_forward", {}, "calls sys.exit or os._exit (status 'enough')"),
    ("fails", {}, "RuntimeError: no such"),
    ("a_class", {}, "return an nn.Module, got type"),
    ("a_dict", {}, "return an nn.Module, got OrderedDict"),
    ("scripted", {"defenses": "loir-2"}, "no layer of the model can be masked, as TorchScript takes no hooks"),
    ("no_parameters", {"defenses": "loir-2"}, "no penultimate layer"),
]


def test_there_are_many_kinds() -> None:
    assert len({factory for factory, *_ in [*EVALUATED, *REFUSED]}) >= 40


@pytest.mark.parametrize(("factory", "changes", "expected"), REFUSED, ids=str)
def test_this_kind_is_refused_before_work_starts(
    factory: str, changes: dict[str, object], expected: str, data: str, tmp_path: Path
) -> None:
    settings = load_settings(EvaluateSettings, file=None, given=given(data, tmp_path / "results", factory, **changes))
    with pytest.raises(InputError) as raised:
        plan_evaluation(Workspace(settings))
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "results").exists()
