"""`igd export` as a user types it."""

import csv
import hashlib
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from igd_ray.cli import main
from igd_ray.data import load_images
from igd_ray.models import load_model
from tests.toys.commands import igd

SMALL = ["--n", "12", "--probe-n", "150", "--search-n", "60", "--executor", "local"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "results"
    attacks = "clean,apgd-ce-5,tr-apgd-ce-5"
    assert main(["evaluate", "--catalog", str(folder), *SMALL, "--defenses", "none,loir-8", "--attacks", attacks]) == 0
    return folder


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def test_a_run_s_records_are_written_and_the_catalog_stays_as_it_is(
    catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in catalog.rglob("*")}
    out = igd(["export", "--catalog", str(catalog)], capsys)
    assert {file: file.stat().st_mtime_ns for file in catalog.rglob("*")} == before
    (target,) = tmp_path.glob("export-*")
    assert out == f"card, verdicts and 2 leaderboard entries: {target.name}\n"
    assert sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()) == [
        "card.md",
        "leaderboard/loir-8.json",
        "leaderboard/none.json",
        "verdicts.csv",
    ]
    verdicts = rows_of(target / "verdicts.csv")
    assert len(verdicts) == 2 * 3 * 12
    entry = json.loads((target / "leaderboard" / "none.json").read_text())
    broken = {each["image_id"] for each in verdicts if each["defense"] == "none" and each["status"] != "robust"}
    assert entry["external"] == f"{100 * (12 - len(broken)) / 12:.2f}"


def test_rounded_points_are_judged_as_the_model_judges_the_png(
    catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = igd(["export", "--catalog", str(catalog), "--to", f"{tmp_path}/e", "--points", f"{tmp_path}/p"], capsys)
    rows = rows_of(tmp_path / "p" / "points.csv")
    undefended = [row for row in rows if row["defense"] == "none" and row["png"]]
    assert len(undefended) >= 4
    model = load_model("demo")
    labels = dict(zip((digits := load_images("digits", n=12)).ids, digits.labels.tolist(), strict=True))
    for row in undefended:
        assert int(row["label"]) == labels[row["image_id"]]
        pixels = np.asarray(Image.open(tmp_path / "p" / row["png"]), dtype=np.float32) / 255
        predicted = int(model(torch.tensor(pixels)[None, None]).argmax())
        assert row["breaks_rounded"] == str(predicted != int(row["label"])).lower(), row
        with np.load(tmp_path / "p" / row["npz"]) as archive:
            point = archive["points"][int(row["row"])]
            assert archive["ids"][int(row["row"])] == row["image_id"]
        assert row["breaks"] == str(int(model(torch.tensor(point)[None]).argmax()) != int(row["label"])).lower()
    breaking = [row for row in rows if row["breaks"] == "true"]
    lost = sum(row["breaks_rounded"] == "false" for row in breaking)
    assert f"rounding to 8 bits takes the effect from {lost} of {len(breaking)} points that break" in out
    # One of an image's points broke each defense that the run calls broken there.
    for row in rows:
        if row["status"] == "broken":
            same = ("defense", "attack", "image_id")
            assert any(each["breaks"] == "true" for each in rows if all(each[name] == row[name] for name in same))


def test_without_the_model_points_are_written_and_the_reason_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, catalog = tmp_path / "net.py", str(tmp_path / "results")
    model.write_text("from igd_ray.models.demo import demo_model\n\n\ndef net():\n    return demo_model()\n")
    given = ["--model", f"{model}:net", "--weights", "own"]
    assert main(["evaluate", "--catalog", catalog, *SMALL, *given, "--attacks", "apgd-ce-5"]) == 0
    capsys.readouterr()
    out = igd(["export", "--catalog", catalog, "--to", f"{tmp_path}/e", "--points", f"{tmp_path}/p"], capsys)
    assert "not judged, whether points still break once rounded to 8 bits: the model of run" in out
    rows = rows_of(tmp_path / "p" / "points.csv")
    assert rows
    assert {(row["breaks"], row["breaks_rounded"]) for row in rows} == {("", "")}
    again = ["export", "--catalog", catalog, "--to", f"{tmp_path}/e", "--points", f"{tmp_path}/q", *given]
    assert "rounding to 8 bits takes the effect from" in igd(again, capsys)


def test_a_run_becomes_a_data_set_of_the_hub(catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "d"
    out = igd(["export", "--catalog", str(catalog), "--to", "hf", str(folder)], capsys)
    card = huggingface_hub.DatasetCard.load(folder / "README.md")
    assert [each["config_name"] for each in card.data.to_dict()["configs"]] == ["verdicts", "points"]
    assert "# Evaluation card: demo" in card.text
    verdicts = pq.read_table(folder / "data" / "verdicts.parquet")
    digest = hashlib.sha256((folder / "data" / "verdicts.parquet").read_bytes()).hexdigest()
    assert digest in card.text
    files = sorted((folder / "data" / "points").iterdir())
    tables = [pq.read_table(file) for file in files]
    assert f"{len(verdicts)} verdicts and {sum(map(len, tables))} points" in out
    assert len(verdicts) == 2 * 3 * 12
    # Each picture is its point with 8 bits, and `--data` reads the pictures with their labels.
    digits = load_images("digits", n=12)
    labels = dict(zip(digits.ids, digits.labels.tolist(), strict=True))
    for file, table in zip(files, tables, strict=True):
        images = load_images(f"parquet:{file}", n=len(table))
        for row, pixels in zip(table.to_pylist(), images.images, strict=True):
            exact = np.asarray(row["pixels"], dtype=np.float32).reshape(row["shape"])
            assert np.abs(pixels.numpy() - exact).max() <= 0.5 / 255 + 1e-6
            assert row["label"] == labels[row["image_id"]]
        assert images.labels.tolist() == table["label"].to_pylist()
    for words, said in [
        (["--to", "hf", str(folder)], "not empty"),
        (["--to", "other", str(folder)], "--to takes a folder, or hf and a folder"),
        (["--to", "hf", f"{tmp_path}/e", "--points", f"{tmp_path}/p"], "leave --points out"),
        (["--to", "hf", str(catalog / "x")], "lies in the catalog"),
    ]:
        assert main(["export", "--catalog", str(catalog), *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    for words, expected in [
        (["nothing"], "the catalog has no run 'nothing'"),
        (["--to", str(catalog / "x")], "lies in the catalog, which export only reads"),
        (["--points", str(catalog)], "lies in the catalog, which export only reads"),
        (["--points", "full"], "not empty, so that old points would stand among new ones"),
        (["--to", "full/file"], "full/file is a file; name a folder"),
        (["--points", "p", "--model", "net.py:net"], "no file at net.py"),
    ]:
        assert main(["export", "--catalog", str(catalog), *words]) == 2, words
        assert expected in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["rank", "--catalog", f"{tmp_path}/ranked", *SMALL]) == 0
    assert main(["export", "--catalog", f"{tmp_path}/ranked"]) == 2
    assert "which attacks nothing; name a run of `igd evaluate`" in capsys.readouterr().err
