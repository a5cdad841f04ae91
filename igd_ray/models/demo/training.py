"""Regenerates the shipped weights of the demo from the digits, and prints the accuracies that are stated of them.

    python -m igd_ray.models.demo.training --output DIR

Takes about a minute on one CPU core, half of it for the attacks. Every random number comes from fixed seeds, so the
same processor and library versions give the same weights; others give slightly different ones.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pyautoattack import AutoAttack
from rich.progress import track
from safetensors.torch import save_file
from torch import Generator, Tensor, nn
from torch.nn import functional

from igd_ray.data.digits import digits_images
from igd_ray.data.images import LabeledImages
from igd_ray.models.clip import DEMO_CONFIG, Clip, build_clip, load_clip, normalised
from igd_ray.models.demo import DEMO_EPSILON, DemoResNet

SEED = 0
BATCH_SIZE = 64

RESNET_EPOCHS = 24
RESNET_LEARNING_RATE = 0.2
RESNET_WEIGHT_DECAY = 1e-3
# Below the attacks' budget, so that they break a good part of the images and a defense has something to do.
TRAINING_EPSILON = 0.08
TRAINING_STEPS = 5
# A little more than the half of the attacks' budget that the defense's first pass adds.
TRAINING_NOISE = 0.1

CLIP_EPOCHS = 40
CLIP_LEARNING_RATE = 2e-3
CLIP_WEIGHT_DECAY = 0.05
PROMPT_TEMPLATES = ("{}", "a photo of the digit {}", "a handwritten {}", "the number {}", "a photo of a {}")

EVALUATION_STEPS = 50
AUTOATTACK_IMAGES = 128


def projected_gradient_descent(
    model: nn.Module, images: Tensor, labels: Tensor, *, epsilon: float, steps: int, generator: Generator
) -> Tensor:
    """Return adversarial images within `epsilon` of `images` [n, 1, 8, 8] and within [0, 1] (Madry et al., 2018).

    Sign-gradient ascent on the cross-entropy from a uniform start in the ball, in steps of 2.5 · epsilon / `steps`.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    noise = 2 * torch.rand(images.shape, generator=generator) - 1
    adversarial = (images + epsilon * noise).clamp(0, 1)
    step_size = 2.5 * epsilon / steps
    for _ in range(steps):
        adversarial.requires_grad_()
        loss = functional.cross_entropy(model(adversarial), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, adversarial)
        adversarial = (adversarial.detach() + step_size * gradient.sign()).clamp(low, high)
    return adversarial


def shifted(images: Tensor, *, generator: Generator) -> Tensor:
    """Return `images` [n, 1, 8, 8], about half of them moved by up to one pixel each way, zeros moving in."""
    count, _, height, width = images.shape
    offsets = torch.randint(0, 3, (count, 2), generator=generator)
    offsets[torch.rand(count, generator=generator) < 0.5] = 1
    rows = (offsets[:, 0, None] + torch.arange(height))[:, :, None]
    columns = (offsets[:, 1, None] + torch.arange(width))[:, None, :]
    return functional.pad(images, (1, 1, 1, 1))[torch.arange(count)[:, None, None], 0, rows, columns].unsqueeze(1)


def shuffled_batches(data: LabeledImages, *, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of `data`, shuffled and shifted, in full batches of `BATCH_SIZE`."""
    order = torch.randperm(len(data), generator=generator)
    for chosen in torch.split(order, BATCH_SIZE):
        if len(chosen) == BATCH_SIZE:
            yield shifted(data.images[chosen], generator=generator), data.labels[chosen]


def train_resnet(train: LabeledImages) -> DemoResNet:
    """Return a `DemoResNet` adversarially trained on `train`, in eval mode."""
    generator = Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        model = DemoResNet()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RESNET_LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=RESNET_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RESNET_LEARNING_RATE, total_steps=RESNET_EPOCHS * (len(train) // BATCH_SIZE)
    )
    for _ in track(range(RESNET_EPOCHS), description="adversarial training"):
        for images, labels in shuffled_batches(train, generator=generator):
            # In eval mode, as a user attacks it, and so that the attack leaves the batch statistics alone.
            model.eval()
            adversarial = projected_gradient_descent(
                model, images, labels, epsilon=TRAINING_EPSILON, steps=TRAINING_STEPS, generator=generator
            )
            noisy = images + TRAINING_NOISE * torch.randn(images.shape, generator=generator)
            model.train()
            loss = functional.cross_entropy(model(torch.cat([adversarial, noisy])), labels.repeat(2))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval()


def train_clip(train: LabeledImages) -> Any:
    """Return an open_clip model of the shipped config trained on `train` and on prompts made of its class names.

    Image and text are pulled together where they belong to the same class (Yang et al., 2022, UniCL), as a batch
    has many images of a class. Token embeddings that no prompt uses are zero.
    """
    generator = Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        model, tokenizer = build_clip(json.loads(DEMO_CONFIG.read_text(encoding="utf-8")))
    prompts = [template.format(name) for name in train.class_names for template in PROMPT_TEMPLATES]
    tokens = tokenizer(prompts).view(len(train.class_names), len(PROMPT_TEMPLATES), -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=CLIP_LEARNING_RATE, weight_decay=CLIP_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, CLIP_LEARNING_RATE, total_steps=CLIP_EPOCHS * (len(train) // BATCH_SIZE)
    )
    for _ in track(range(CLIP_EPOCHS), description="contrastive training"):
        for images, labels in shuffled_batches(train, generator=generator):
            templates = torch.randint(0, len(PROMPT_TEMPLATES), labels.shape, generator=generator)
            image_logits, text_logits = model.get_logits(normalised(images), tokens[labels, templates])
            same_class = (labels[:, None] == labels).float()
            target = same_class / same_class.sum(dim=1, keepdim=True)
            loss = (functional.cross_entropy(image_logits, target) + functional.cross_entropy(text_logits, target)) / 2
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    unused = torch.ones(model.vocab_size, dtype=torch.bool)
    unused[torch.unique(tokens)] = False
    with torch.no_grad():
        model.token_embedding.weight[unused] = 0
    return model.eval()


def clean_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of `images` that `model` classifies as `labels`."""
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).double().mean())


def pgd_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy under `EVALUATION_STEPS` steps of PGD at `DEMO_EPSILON`."""
    generator = Generator().manual_seed(SEED)
    adversarial = projected_gradient_descent(
        model, images, labels, epsilon=DEMO_EPSILON, steps=EVALUATION_STEPS, generator=generator
    )
    return clean_accuracy(model, adversarial, labels)


def autoattack_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy under AutoAttack standard, infinity norm, at `DEMO_EPSILON`, all images in one batch."""
    # It reseeds the global generators.
    with torch.random.fork_rng():
        attack = AutoAttack(model, eps=DEMO_EPSILON, norm="Linf", version="standard", seed=SEED)
        adversarial, *_ = attack.run_standard_evaluation(images, labels, batch_size=len(images))
    return clean_accuracy(model, adversarial, labels)


def zero_shot_accuracy(clip: Clip, data: LabeledImages) -> float:
    """Return the share of `data` whose most similar bare class name is the right one."""
    similarity = clip.embed_images(data.images) @ clip.embed_text(data.class_names).T
    return float((similarity.argmax(dim=1) == data.labels).double().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both models, write `demo_resnet.safetensors`, `demo_clip.safetensors` and `.json`, print accuracies."""
    parser = argparse.ArgumentParser(
        prog="python -m igd_ray.models.demo.training", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--output", type=Path, default=Path("demo-weights"), help="folder to write to (%(default)s)")
    output: Path = parser.parse_args(arguments).output
    output.mkdir(parents=True, exist_ok=True)
    # The tensors are so small that more threads would wait for each other, and would sum in another order.
    torch.set_num_threads(1)

    train, test = digits_images("train"), digits_images("test")
    resnet = train_resnet(train)
    save_file(resnet.state_dict(), output / "demo_resnet.safetensors")
    halves = {name: tensor.half().contiguous() for name, tensor in train_clip(train).state_dict().items()}
    save_file(halves, output / "demo_clip.safetensors")
    config_copy = output / DEMO_CONFIG.name
    config_copy.write_bytes(DEMO_CONFIG.read_bytes())

    clip = load_clip(str(config_copy))
    few, few_labels = test.images[:AUTOATTACK_IMAGES], test.labels[:AUTOATTACK_IMAGES]
    print(f"infinity-norm budget of the attacks, in [0, 1] pixel units: {DEMO_EPSILON:g}")
    print(f"clean, {len(test)} test images: {clean_accuracy(resnet, test.images, test.labels):.2%}")
    print(
        f"PGD, {EVALUATION_STEPS} steps, {len(test)} test images: {pgd_accuracy(resnet, test.images, test.labels):.2%}"
    )
    print(f"CLIP zero-shot, bare class names, {len(test)} test images: {zero_shot_accuracy(clip, test):.2%}")
    print(f"clean, first {len(few)} test images: {clean_accuracy(resnet, few, few_labels):.2%}")
    print("AutoAttack standard takes half a minute …")
    print(f"AutoAttack standard, first {len(few)} test images: {autoattack_accuracy(resnet, few, few_labels):.2%}")


if __name__ == "__main__":
    main()
