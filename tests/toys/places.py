"""Where the repository is, and the folder beside it with the CIFAR-10 model and images."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared"
