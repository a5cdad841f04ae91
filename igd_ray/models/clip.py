"""CLIP models that say how well an image fits a class name: embedded, from local files, or from open_clip's zoo."""

import json
import logging
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import open_clip.factory
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import get_pretrained_cfg
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from igd_ray.data.images import check_images
from igd_ray.downloads import check_hub_file
from igd_ray.errors import InputError, did_you_mean
from igd_ray.models.checkpoints import load_weights
from igd_ray.models.fingerprint import model_fingerprint

DEMO_CONFIG = Path(__file__).parent / "weights" / "demo_clip.json"

CONFIG_KEYS = ("embed_dim", "vision_cfg", "text_cfg")

# Two prompts that a model which reads any words must tell apart.
UNLIKE_WORDS = ("dog", "car")

# A thousand ImageNet prompts at once would need gigabytes for activations.
PROMPTS_PER_PASS = 256

Tokenizer = Callable[[list[str]], Tensor]


class Clip:
    """Image and text embeddings of one CLIP model, in float32, without gradients.

    Attributes:
        image_size: (height, width) the model sees; other sizes are resized.
        identity: what embeddings depend on, as JSON-able values: the spec (a file's name without its folder),
            the resolved config, mean, standard deviation and the fingerprint of the model with its weights.

    Raises:
        InputError: if the model, its tokenizer and its image size do not fit each other.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        spec: str,
        config: Mapping[str, Any],
        mean: Sequence[float],
        std: Sequence[float],
        device: str,
    ) -> None:
        self._model = model.to(device="cpu", dtype=torch.float32).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = torch.device("cpu")
        self._mean, self._std = tuple(mean), tuple(std)
        self.image_size: tuple[int, int] = _image_size(model, spec)
        # On the CPU, because a token that the model does not know would leave a CUDA device unusable.
        self._try_out(spec)
        self._model.to(device)
        self._device = torch.device(device)
        self.identity: dict[str, Any] = {
            "spec": spec,
            # Through JSON, as tuples and lists would otherwise compare as different.
            "config": json.loads(json.dumps(config)),
            "mean": list(mean),
            "std": list(std),
            "fingerprint": model_fingerprint(self._model),
        }

    def _try_out(self, spec: str) -> None:
        """Embed a grey image and two words, so that a misfit is told before work starts."""
        try:
            tokens = self._tokenizer(list(UNLIKE_WORDS))
            image = self.embed_images(torch.full((1, 3, *self.image_size), 0.5))
            text = self.embed_text(UNLIKE_WORDS)
        except Exception as error:  # parts that do not fit each other fail in too many ways to list
            raise InputError(
                f"the CLIP {spec} cannot embed an image of {list(self.image_size)} pixels and a word "
                f"({type(error).__name__}: {_one_line(error)}); check its config and its weights"
            ) from error
        if torch.equal(tokens[0], tokens[1]):
            raise InputError(
                f"the CLIP {spec} reads {tokens.shape[1]} tokens of a prompt, which leaves no room for a word between "
                "start and end; its context_length must be at least 3"
            )
        if image.ndim != 2 or text.ndim != 2 or image.shape[1] != text.shape[1] or image.shape[1] == 0:
            raise InputError(
                f"the CLIP {spec} must give embeddings [n, E] of images and texts with the same E, "
                f"not {list(image.shape)} and {list(text.shape)}; check its config"
            )
        if not (torch.isfinite(image).all() and torch.isfinite(text).all()):
            raise InputError(f"the CLIP {spec} gives embeddings that are NaN or infinite; copy its weights again")

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Return embeddings, float32 [n, E] of length 1, of `images`, float [n, C, H, W] in [0, 1], C = 1 or 3.

        One channel is repeated to three. An image of another size is resized to `image_size`, bicubic with
        antialiasing and whatever its proportions, and clamped to [0, 1]. The caller chooses the batch size.

        Raises:
            InputError: if the images are not floats in [0, 1] with one or three channels.
        """
        check_images(images, where="images for CLIP")
        if images.shape[1] not in (1, 3):
            raise InputError(
                f"CLIP takes images with 1 or 3 channels, got {images.shape[1]}: shape {list(images.shape)}"
            )
        pixels = images.to(device=self._device, dtype=torch.float32)
        if tuple(pixels.shape[2:]) != self.image_size:
            pixels = functional.interpolate(
                pixels, self.image_size, mode="bicubic", antialias=True, align_corners=False
            )
            pixels = pixels.clamp(0, 1)
        return functional.normalize(self._model.encode_image(normalised(pixels, self._mean, self._std)), dim=-1)

    @torch.no_grad()
    def embed_text(self, prompts: Sequence[str]) -> Tensor:
        """Return embeddings, float32 [P, E] of length 1, of `prompts`.

        A prompt longer than the model's context is cut, as CLIP does.

        Raises:
            InputError: if `prompts` is one string or empty.
        """
        if isinstance(prompts, str) or len(prompts) == 0:
            raise InputError(f"expected a list of at least one prompt, got {prompts!r}")
        tokens = self._tokenizer(list(prompts)).to(self._device)
        embeddings = [self._model.encode_text(part) for part in torch.split(tokens, PROMPTS_PER_PASS)]
        return functional.normalize(torch.cat(embeddings), dim=-1)


def load_clip(spec: str, *, weights: str | Path | None = None, device: str = "cpu") -> Clip:
    """Return the CLIP model called `spec`.

    `spec` is one of
        - ``demo``: the tiny model that knows the digits' class names, shipped with the package;
        - the path of a JSON file with `embed_dim`, `vision_cfg` and `text_cfg` as open_clip writes them, alone or
          under `model_cfg` beside a `preprocess_cfg` with `mean` and `std` (OpenAI's otherwise); its weights are
          the safetensors file `weights`, by default the one of the same name beside it;
        - ``NAME/PRETRAINED`` from open_clip's zoo, such as ``ViT-B-16/openai``; downloaded unless `weights`
          gives the file;
        - ``NAME`` from open_clip's zoo, with the checkpoint file `weights`.
    Files are read as safetensors or as tensors only; a pickle that would run code is refused.

    Raises:
        InputError: if there is no such model, or its weights are missing, damaged or of another model.
    """
    if spec == "demo":
        if weights is not None:
            raise InputError("the CLIP 'demo' brings its weights along: leave the weights out, or give another spec")
        return _load_config(DEMO_CONFIG, DEMO_CONFIG.with_suffix(".safetensors"), name="demo", device=device)
    if spec.endswith(".json"):
        config_file = Path(spec)
        weights_file = config_file.with_suffix(".safetensors") if weights is None else Path(weights)
        return _load_config(config_file, weights_file, name=config_file.name, device=device)
    return _load_named(spec, weights=None if weights is None else Path(weights), device=device)


def build_clip(config: Mapping[str, Any]) -> tuple[Any, Tokenizer]:
    """Return the randomly initialised open_clip model of `config`, and its tokenizer (OpenAI's byte-pair encoding).

    Draws from the global generator: fork it around this call.

    Raises:
        InputError: if `config` is not one of an open_clip model with OpenAI's vocabulary.
    """
    text = config["text_cfg"]
    for name in ("hf_model_name", "hf_tokenizer_name"):
        if isinstance(text, Mapping) and text.get(name):
            raise InputError(
                f"the CLIP config asks for {text[name]!r} from Hugging Face ({name}), but a CLIP from a file can only "
                "have OpenAI's tokenizer; give open_clip's NAME/PRETRAINED, or another model"
            )
    try:
        tokenizer = open_clip.SimpleTokenizer(
            context_length=text["context_length"], **(text.get("tokenizer_kwargs") or {})
        )
        model = open_clip.CLIP(**config)
    except (TypeError, KeyError, AttributeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise InputError(
            f"open_clip cannot build the CLIP config ({type(error).__name__}: {_one_line(error)}): "
            f"expected {', '.join(CONFIG_KEYS)} with the fields of CLIPVisionCfg and CLIPTextCfg"
        ) from error
    if model.vocab_size < tokenizer.vocab_size:
        raise InputError(
            f"the CLIP config needs a vocab_size of at least {tokenizer.vocab_size}, not {model.vocab_size}"
        )
    return model, tokenizer


def normalised(
    pixels: Tensor, mean: Sequence[float] = OPENAI_DATASET_MEAN, std: Sequence[float] = OPENAI_DATASET_STD
) -> Tensor:
    """Return (`pixels` − mean) / std, [n, 3, H, W], of `pixels` [n, 3 or 1, H, W]; one channel is repeated to three."""
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def _load_config(config_file: Path, weights_file: Path, *, name: str, device: str) -> Clip:
    try:
        content = json.loads(config_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the CLIP config {config_file}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"the CLIP config {config_file} is not JSON: {error}") from error
    config = content.get("model_cfg", content) if isinstance(content, dict) else content
    if not isinstance(config, dict) or any(key not in config for key in CONFIG_KEYS):
        raise InputError(f"the CLIP config {config_file} must be a JSON object with {', '.join(CONFIG_KEYS)}")
    preprocess = content.get("preprocess_cfg", {})
    mean = _channel_values(preprocess, "mean", OPENAI_DATASET_MEAN, config_file)
    std = _channel_values(preprocess, "std", OPENAI_DATASET_STD, config_file)
    if not weights_file.is_file():
        raise InputError(
            f"the CLIP weights {weights_file} do not exist: give the safetensors file of {name} as weights"
        )
    with torch.random.fork_rng(devices=[]):
        model, tokenizer = build_clip(config)
    load_weights(model, weights_file)
    return Clip(model, tokenizer, spec=name, config=config, mean=mean, std=std, device=device)


def _load_named(spec: str, *, weights: Path | None, device: str) -> Clip:
    name, _, pretrained = spec.rpartition("/")
    # "ViT-B/32" is the old spelling of "ViT-B-32", not a tag called 32.
    for whole in (spec, spec.replace("/", "-")):
        if whole in open_clip.list_models():
            name, pretrained = whole, ""
    name = name.replace("/", "-")
    if name not in open_clip.list_models():
        known = ["demo", *open_clip.list_models(), *("/".join(pair) for pair in open_clip.list_pretrained())]
        raise InputError(
            f"CLIP must be 'demo', a JSON config file or NAME/PRETRAINED such as 'ViT-B-16/openai', not {spec!r}"
            f"{did_you_mean(spec, known)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    settings = get_pretrained_cfg(name, pretrained)
    if pretrained and not settings:
        raise InputError(
            f"open_clip has no weights {pretrained!r} of {name}, only {', '.join(tags)}{did_you_mean(pretrained, tags)}"
        )
    if weights is None and not pretrained:
        raise InputError(f"which weights of {name}? give {name}/PRETRAINED ({', '.join(tags)}) or a checkpoint file")
    if weights is not None and not weights.is_file():
        raise InputError(f"the CLIP weights {weights} do not exist: give the checkpoint file of {name}")
    config = open_clip.get_model_config(name)
    # open_clip only warns when weights trained with QuickGELU (all of OpenAI's) meet a config without it.
    quick_gelu = bool(settings.get("quick_gelu", config.get("quick_gelu", False)))
    mean, std = settings.get("mean", OPENAI_DATASET_MEAN), settings.get("std", OPENAI_DATASET_STD)
    try:
        # First, because it costs nothing, where the weights may have to be downloaded.
        tokenizer = open_clip.get_tokenizer(name)
    except (ImportError, OSError, ValueError, TypeError) as error:
        raise InputError(
            f"the tokenizer of the CLIP {name} is not here ({_one_line(error)}); "
            "give a CLIP with OpenAI's tokenizer, such as ViT-B-16/openai"
        ) from error
    try:
        with torch.random.fork_rng(devices=[]), _without_retry_messages():
            if weights is None:
                check_hub_file(Path(open_clip.download_pretrained(settings)), f"CLIP {name}/{pretrained}")
            model = open_clip.create_model(
                name,
                pretrained=pretrained if weights is None else None,
                precision="fp32",
                force_quick_gelu=quick_gelu,
                pretrained_hf=False,
                load_weights_only=True,
            )
        if weights is not None:
            _load_zoo_weights(model, weights)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{weights or spec} holds more than tensors, which is refused: convert it to safetensors"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, SafetensorError) as error:
        what = f"download the CLIP {spec}" if weights is None else f"load {weights} as {name}"
        raise InputError(
            f"cannot {what}: {_one_line(error)}; give a safetensors file of {name} as the weights"
        ) from error
    return Clip(
        model,
        tokenizer,
        spec=f"{name}/{pretrained}" if pretrained else name,
        config={**config, "quick_gelu": quick_gelu},
        mean=mean,
        std=std,
        device=device,
    )


@contextmanager
def _without_retry_messages() -> Iterator[None]:
    """While open, keep the downloader from reporting every retry: the error at the end says the same once."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _load_zoo_weights(model: Any, weights: Path) -> None:
    """Load a checkpoint file as open_clip does, but none whose positional embeddings it would have to resize.

    Raises:
        RuntimeError: if names or shapes do not fit.
    """
    state = open_clip.factory.load_state_dict(str(weights), weights_only=True)
    expected = model.state_dict()
    for key, tensor in state.items():
        for own in (key, f"text.{key}"):  # the second where an older file has the text model's weights on top
            if key.endswith("positional_embedding") and own in expected and tensor.shape != expected[own].shape:
                raise RuntimeError(f"{own} should be {list(expected[own].shape)}, is {list(tensor.shape)}")
    open_clip.load_checkpoint(model, str(weights), weights_only=True)


def _image_size(model: Any, spec: str) -> tuple[int, int]:
    """Return the (height, width) that the image model sees."""
    size = getattr(model.visual, "image_size", None)
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise InputError(f"the CLIP {spec} must have an image_size of one or two positive whole numbers, not {size!r}")
    patch = getattr(model.visual, "patch_size", None)
    if isinstance(patch, (tuple, list)) and any(side % step for side, step in zip(pair, patch, strict=True)):
        raise InputError(
            f"the CLIP {spec} cuts an image of {list(pair)} pixels into patches of {list(patch)}, which do not fill "
            "it; its image_size must be a multiple of its patch_size"
        )
    return int(pair[0]), int(pair[1])


def _channel_values(preprocess: Any, name: str, default: Sequence[float], config_file: Path) -> tuple[float, ...]:
    """Return the `name` of a `preprocess_cfg`: three finite numbers; positive ones if they are divided by."""
    values = preprocess.get(name, default) if isinstance(preprocess, Mapping) else preprocess
    numbers = isinstance(values, Sequence) and len(values) == 3 and all(isinstance(v, (int, float)) for v in values)
    if not numbers or not all(math.isfinite(v) and (v > 0 or name == "mean") for v in values):
        raise InputError(f"the CLIP config {config_file} must have three numbers as {name}, not {values!r}")
    return tuple(float(value) for value in values)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + "…"
