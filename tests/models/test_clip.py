"""CLIP: loading by spec, embeddings, and what is said when something does not fit."""

import copy
import json
import logging
import pickle
import re
from pathlib import Path

import numpy as np
import open_clip
import open_clip.factory
import open_clip.pretrained
import pytest
import torch
from safetensors.torch import load_file, save_file

from igd_ray.data import load_images
from igd_ray.data.digits import digits_images
from igd_ray.errors import InputError
from igd_ray.models import demo
from igd_ray.models.clip import DEMO_CONFIG, Clip, build_clip, load_clip, normalised
from igd_ray.models.demo.training import PROMPT_TEMPLATES, zero_shot_accuracy

DEMO_WEIGHTS = DEMO_CONFIG.with_suffix(".safetensors")


@pytest.fixture(scope="module")
def clip():
    return load_clip("demo")


@pytest.fixture
def zoo_name(monkeypatch, tmp_path):
    """Registers the demo's architecture in open_clip's zoo for one test, with a tag trained with QuickGELU."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    config_file = tmp_path / "tiny-digits.json"
    config_file.write_bytes(DEMO_CONFIG.read_bytes())
    open_clip.add_model_config(config_file)
    tags = {"openai": open_clip.pretrained._pcfg(url="https://invalid.invalid/none.pt", quick_gelu=True)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-digits", tags)
    return "tiny-digits"


def test_zero_shot_accuracy_is_the_stated_one(clip):
    accuracy = zero_shot_accuracy(clip, digits_images("test"))
    match = re.search(r"CLIP zero-shot, bare class names, 540 test images: ([\d.]+) %", demo.__doc__ or "")
    assert match
    assert accuracy == pytest.approx(float(match.group(1)) / 100, abs=0.002)
    assert accuracy >= 0.85


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(clip):
    images = digits_images("test").images[:40]
    whole = clip.embed_images(images)
    assert whole.shape == (40, 32)
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(torch.cat([clip.embed_images(part) for part in images.split(7)]), whole)
    prompts = [template.format(name) for template in PROMPT_TEMPLATES for name in digits_images("test").class_names]
    text = clip.embed_text(prompts * 6)
    assert text.shape == (300, 32)
    torch.testing.assert_close(text.norm(dim=1), torch.ones(300))
    torch.testing.assert_close(text[290:], clip.embed_text(prompts[-10:]))


def test_normalisation_is_openais_in_float64():
    pixels = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean = np.array([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    std = np.array([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    expected = (pixels.numpy().astype(np.float64) - mean) / std
    np.testing.assert_allclose(normalised(pixels).numpy(), expected, atol=1e-6)


def test_one_channel_is_three_equal_ones(clip):
    images = digits_images("test").images[:5]
    assert torch.equal(clip.embed_images(images), clip.embed_images(images.repeat(1, 3, 1, 1)))


def test_other_sizes_are_resized(clip):
    images = digits_images("test").images[:64]
    enlarged = images.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    similarity = (clip.embed_images(enlarged) * clip.embed_images(images)).sum(dim=1)
    assert similarity.mean() > 0.95
    assert similarity.max() < 1 - 1e-6


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 2, 8, 8), r"1 or 3 channels, got 2"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"expected float images"),
        (torch.full((1, 1, 8, 8), 16.0), r"divide by 255"),
        (torch.full((1, 1, 8, 8), float("nan")), r"not be NaN"),
    ],
)
def test_unfit_images_are_told(clip, images, message):
    with pytest.raises(InputError, match=message):
        clip.embed_images(images)


@pytest.mark.parametrize("prompts", ["zero", []])
def test_unfit_prompts_are_told(clip, prompts):
    with pytest.raises(InputError, match="at least one prompt"):
        clip.embed_text(prompts)


def test_identity_is_json_and_follows_the_weights(clip, tmp_path):
    assert json.loads(json.dumps(clip.identity)) == clip.identity
    assert clip.identity["spec"] == "demo"
    assert clip.image_size == (8, 8)
    (tmp_path / "copy.json").write_bytes(DEMO_CONFIG.read_bytes())
    state = load_file(DEMO_WEIGHTS)
    save_file(state, tmp_path / "copy.safetensors")
    same = load_clip(str(tmp_path / "copy.json"))
    assert same.identity == {**clip.identity, "spec": "copy.json"}
    state["ln_final.bias"][0] += 0.5
    save_file(state, tmp_path / "other.safetensors")
    other = load_clip(str(tmp_path / "copy.json"), weights=tmp_path / "other.safetensors")
    assert other.identity["fingerprint"] != clip.identity["fingerprint"]


def test_unused_tokens_are_zero_and_loading_draws_nothing():
    state = torch.random.get_rng_state()
    load_clip("demo")
    assert torch.equal(torch.random.get_rng_state(), state)
    rows = load_file(DEMO_WEIGHTS)["token_embedding.weight"]
    assert rows.dtype == torch.float16
    used = open_clip.SimpleTokenizer(context_length=16)(
        [template.format(name) for template in PROMPT_TEMPLATES for name in digits_images("test").class_names]
    ).unique()
    assert set(rows.abs().sum(dim=1).nonzero()[:, 0].tolist()) == set(used.tolist())


@pytest.mark.slow
def test_the_shared_clip_knows_its_classes(shared):
    cifar = load_clip(str(shared / "models" / "cifar10_tiny_clip.json"))
    assert cifar.image_size == (32, 32)
    images = load_images(f"parquet:{shared}/data/cifar10/test.parquet", n=2000, class_names="cifar10")
    similarity = cifar.embed_images(images.images) @ cifar.embed_text(images.class_names).T
    accuracy = (similarity.argmax(dim=1) == images.labels).double().mean().item()
    # 68.8 % with the bare class name, by the file's notes; 0.3 % are six images.
    assert accuracy == pytest.approx(0.688, abs=0.003)


def test_zoo_architecture_with_a_local_checkpoint(clip, zoo_name):
    images, names = digits_images("test").images[:8], digits_images("test").class_names
    from_zoo = load_clip(zoo_name, weights=DEMO_WEIGHTS)
    torch.testing.assert_close(from_zoo.embed_images(images), clip.embed_images(images))
    torch.testing.assert_close(from_zoo.embed_text(names), clip.embed_text(names))
    assert from_zoo.identity["config"]["quick_gelu"] is False


def test_zoo_weights_trained_with_quick_gelu_get_it(clip, zoo_name):
    images = digits_images("test").images[:8]
    openai = load_clip(f"{zoo_name}/openai", weights=DEMO_WEIGHTS)
    assert openai.identity["config"]["quick_gelu"] is True
    assert (openai.embed_images(images) - clip.embed_images(images)).abs().max() > 1e-3


class RunsCode:
    """Would create the file `path` if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_not_run(zoo_name, tmp_path):
    file, trace = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"state_dict": {"logit_scale": RunsCode(trace)}}, file)
    with pytest.raises(InputError, match="holds more than tensors"):
        load_clip(zoo_name, weights=file)
    assert not trace.exists()
    file.write_bytes(pickle.dumps(RunsCode(trace), protocol=2))
    with pytest.raises(InputError):
        load_clip(zoo_name, weights=file)
    with pytest.raises(InputError):
        load_clip(str(DEMO_CONFIG), weights=file)
    assert not trace.exists()


def test_a_failed_download_is_told_once(zoo_name, monkeypatch, caplog):
    def refuse(*_args, **_kwargs):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no\nnetwork")

    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    with pytest.raises(InputError, match="cannot download the CLIP tiny-digits/openai: no network; give"):
        load_clip(f"{zoo_name}/openai")
    assert "Retrying" not in caplog.text
    logging.getLogger("huggingface_hub.utils._http").warning("as before")
    assert "as before" in caplog.text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dmo", r"not 'dmo'; did you mean 'demo'"),
        ("ViT-B-61/openai", r"did you mean 'ViT-B-16/openai'"),
        ("ViT-B-16/opnai", r"no weights 'opnai' of ViT-B-16, .*did you mean 'openai'"),
        ("ViT-B-16", r"which weights of ViT-B-16\? give ViT-B-16/PRETRAINED \(openai"),
        ("ViT-B/16", r"which weights of ViT-B-16\?"),
        ("nowhere/clip.json", r"cannot read the CLIP config nowhere/clip.json: No such file"),
    ],
)
def test_unknown_specs_are_told(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        load_clip(spec)
    assert "\n" not in str(caught.value)


def test_demo_takes_no_weights():
    with pytest.raises(InputError, match="brings its weights along"):
        load_clip("demo", weights=DEMO_WEIGHTS)


def test_unfit_weights_are_told(tmp_path, zoo_name):
    state = load_file(DEMO_WEIGHTS)
    spec = str(DEMO_CONFIG)
    with pytest.raises(InputError, match="do not exist"):
        load_clip(spec, weights=tmp_path / "none.safetensors")

    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(DEMO_WEIGHTS.read_bytes()[:-1000])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_clip(spec, weights=truncated)
    with pytest.raises(InputError, match="cannot load"):
        load_clip(zoo_name, weights=truncated)

    renamed = tmp_path / "renamed.safetensors"
    save_file({("other" if name == "text_projection" else name): tensor for name, tensor in state.items()}, renamed)
    with pytest.raises(InputError, match=r"missing \(text_projection\).*unexpected \(other\)"):
        load_clip(spec, weights=renamed)
    with pytest.raises(InputError, match=r"text_projection.*other"):
        load_clip(zoo_name, weights=renamed)

    reshaped = tmp_path / "reshaped.safetensors"
    save_file({**state, "text_projection": torch.zeros(3, 3)}, reshaped)
    with pytest.raises(InputError, match=r"text_projection should be \[32, 32\], is \[3, 3\]"):
        load_clip(spec, weights=reshaped)


@pytest.mark.parametrize("name", ["positional_embedding", "visual.positional_embedding"])
def test_positional_embeddings_are_not_resized(tmp_path, zoo_name, name):
    """open_clip would stretch those of a longer context, or of larger images, and say nothing."""
    state = load_file(DEMO_WEIGHTS)
    rows, width = state[name].shape
    longer = 4 * (rows - 1) + 1
    file = tmp_path / "longer.safetensors"
    save_file({**state, name: torch.zeros(longer, width)}, file)
    for spec in (str(DEMO_CONFIG), zoo_name):
        with pytest.raises(InputError, match=rf"{name} should be \[{rows}, {width}\], is \[{longer}, {width}\]"):
            load_clip(spec, weights=file)


def test_a_config_under_model_cfg_brings_mean_and_std_along(clip, tmp_path):
    """The layout of open_clip_config.json."""
    images = digits_images("test").images[:8]
    file = tmp_path / "open_clip_config.json"
    content = {"model_cfg": json.loads(DEMO_CONFIG.read_text())}
    file.write_text(json.dumps(content))
    assert load_clip(str(file), weights=DEMO_WEIGHTS).identity == {**clip.identity, "spec": "open_clip_config.json"}
    # (x/2 − m/2) / (s/2) = (x − m) / s: half the mean and deviation see in darker images what the whole ones see.
    mean, std = [value / 2 for value in clip.identity["mean"]], [value / 2 for value in clip.identity["std"]]
    content["preprocess_cfg"] = {"mean": mean, "std": std}
    file.write_text(json.dumps(content))
    other = load_clip(str(file), weights=DEMO_WEIGHTS)
    assert (other.identity["mean"], other.identity["std"]) == (mean, std)
    torch.testing.assert_close(other.embed_images(images / 2), clip.embed_images(images))
    assert (other.embed_images(images) - clip.embed_images(images)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ({"mean": [0.5, 0.5]}, r"three numbers as mean, not \[0.5, 0.5\]"),
        ({"mean": "abc"}, r"three numbers as mean, not 'abc'"),
        ({"std": [1, 0, 1]}, r"three numbers as std, not \[1, 0, 1\]"),
        ({"std": [1, float("nan"), 1]}, r"three numbers as std, not \[1, nan, 1\]"),
        ([], r"three numbers as mean, not \[\]"),
    ],
)
def test_an_unfit_mean_or_std_is_told(tmp_path, preprocess, message):
    file = tmp_path / "clip.json"
    file.write_text(json.dumps({"model_cfg": json.loads(DEMO_CONFIG.read_text()), "preprocess_cfg": preprocess}))
    with pytest.raises(InputError, match=message):
        load_clip(str(file), weights=DEMO_WEIGHTS)


def with_changes(tmp_path, **changes):
    """Write the demo's config with `changes`, such as text_cfg={"width": 24}, and random weights that fit it."""
    config = copy.deepcopy(json.loads(DEMO_CONFIG.read_text()))
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    (tmp_path / "clip.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        model, _ = build_clip(config)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, tmp_path / "clip.safetensors")
    return tmp_path / "clip.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_cfg": {"context_length": 0}}, r"cannot embed an image .* and a word .*context length"),
        ({"text_cfg": {"context_length": 2}}, r"reads 2 tokens of a prompt, .*context_length must be at least 3"),
        ({"text_cfg": {"context_length": "16"}}, r"cannot build the CLIP config \(TypeError"),
        ({"text_cfg": {"vocab_size": 1000}}, r"needs a vocab_size of at least 49408, not 1000"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, r"asks for 'roberta-base' from Hugging Face \(hf_model_name"),
        ({"text_cfg": {"hf_tokenizer_name": "mc4"}}, r"asks for 'mc4' from Hugging Face \(hf_tokenizer_name"),
        ({"text_cfg": {"proj_type": "none", "width": 24}}, r"with the same E, not \[1, 32\] and \[2, 24\]"),
        ({"text_cfg": {"pool_type": "none"}}, r"with the same E, not \[1, 32\] and \[2, 16, 32\]"),
        ({"embed_dim": 0}, r"with the same E, not \[1, 0\]"),
        ({"vision_cfg": {"image_size": 7}}, r"cuts an image of \[7, 7\] pixels into patches of \[2, 2\], .* multiple"),
        ({"vision_cfg": {"image_size": [8, 9]}}, r"cuts an image of \[8, 9\] pixels into patches of \[2, 2\]"),
        ({"vision_cfg": {"patch_size": 3}}, r"cuts an image of \[8, 8\] pixels into patches of \[3, 3\]"),
        ({"vision_cfg": {"image_size": 0}}, r"image_size of one or two positive whole numbers, not \(0, 0\)"),
        ({"vision_cfg": {"image_size": [8, 8, 8]}}, r"cannot build the CLIP config \(ValueError"),
        ({"vision_cfg": {"output_tokens": True}}, r"cannot embed an image of \[8, 8\] pixels and a word"),
        ({"vision_cfg": {"layers": [1, 1, 1, 1], "image_size": 16}}, r"cannot embed an image of \[16, 16\] pixels"),
    ],
)
def test_a_config_whose_parts_do_not_fit_is_told_when_loading(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        load_clip(str(with_changes(tmp_path, **changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [8, [8, 12], [16, 4]])
def test_images_are_resized_to_what_the_model_sees(tmp_path, size):
    clip = load_clip(str(with_changes(tmp_path, vision_cfg={"image_size": size})))
    assert clip.image_size == ((size, size) if isinstance(size, int) else tuple(size))
    assert clip.embed_images(torch.rand(2, 3, 10, 6, generator=torch.Generator().manual_seed(0))).shape == (2, 32)


def test_the_tokenizer_gets_the_configs_options(tmp_path):
    """SigLIP-like cleaning drops punctuation; OpenAI's keeps it."""
    texts = ["zero!", "zero"]
    plain = load_clip(str(with_changes(tmp_path))).embed_text(texts)
    assert not torch.equal(plain[0], plain[1])
    changes = {"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}
    cleaned = load_clip(str(with_changes(tmp_path, **changes))).embed_text(texts)
    torch.testing.assert_close(cleaned[0], cleaned[1])


def test_weights_that_are_not_finite_are_told(tmp_path):
    state = load_file(DEMO_WEIGHTS)
    state["visual.proj"][0, 0] = float("nan")
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(InputError, match=r"gives embeddings that are NaN or infinite; copy its weights again"):
        load_clip(str(DEMO_CONFIG), weights=tmp_path / "broken.safetensors")


def test_a_tokenizer_that_is_not_here_is_told_before_the_weights_are_loaded(zoo_name, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise ImportError("No module named 'transformers'")

    monkeypatch.setattr(open_clip, "get_tokenizer", refuse)
    monkeypatch.setattr(open_clip, "create_model", None)
    with pytest.raises(InputError, match=r"the tokenizer of the CLIP tiny-digits is not here \(No module named 'trans"):
        load_clip(zoo_name, weights=DEMO_WEIGHTS)


class NoImageSize(torch.nn.Module):
    """An image model that does not say what it sees."""


def test_an_image_model_without_an_image_size_is_told():
    with torch.random.fork_rng():
        model, tokenizer = build_clip(json.loads(DEMO_CONFIG.read_text()))
    model.visual = NoImageSize()
    with pytest.raises(InputError, match=r"the CLIP x must have an image_size .*, not None"):
        Clip(model, tokenizer, spec="x", config={}, mean=(0, 0, 0), std=(1, 1, 1), device="cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object with embed_dim, vision_cfg, text_cfg"),
        ('{"embed_dim": 1, "vision_cfg": {"wdth": 2}, "text_cfg": {"context_length": 4}}', "wdth"),
        ('{"embed_dim": 1, "vision_cfg": {}, "text_cfg": {}}', "context_length"),
    ],
)
def test_unfit_configs_are_told(tmp_path, text, message):
    (tmp_path / "clip.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_clip(str(tmp_path / "clip.json"), weights=DEMO_WEIGHTS)
