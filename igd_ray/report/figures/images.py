"""Pictures of images, and of scores, as text that stands inside the report."""

import base64
import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from igd_ray.report.figures.svg import BLUE, STYLE, short, svg


def score_map(scores: NDArray[np.float64], class_names: Sequence[str]) -> Markup:
    """Draw scores [classes × neurons], each class on its own scale, as a heat map."""
    low = scores.min(axis=1, keepdims=True)
    span = scores.max(axis=1, keepdims=True) - low
    scaled = np.divide(scores - low, span, out=np.zeros_like(scores), where=span > 0)
    with mpl.rc_context({**STYLE, "svg.hashsalt": "scores"}):
        figure = Figure(figsize=(7.2, 0.8 + 0.2 * len(class_names)), layout="constrained")
        axes = figure.add_subplot()
        # From nothing to blue: what is unimportant takes the page's background.
        colours = LinearSegmentedColormap.from_list("importance", [(*to_rgb(BLUE), a) for a in (0.04, 1.0)])
        axes.imshow(scaled, aspect="auto", cmap=colours, interpolation="nearest")
        axes.set_yticks(range(len(class_names)), [short(name) for name in class_names])
        axes.set_xlabel("neurons, the most important over all classes first")
        axes.spines[:].set_visible(False)
        return svg(figure, "Importance of the neurons for each class")


def picture(image: NDArray[np.float32]) -> str:
    """Return an image [C, H, W] in [0, 1], of one or three channels, as the address of PNG data."""
    shades = np.rint(np.clip(image.transpose(1, 2, 0), 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    imsave(buffer, np.broadcast_to(shades, (*shades.shape[:2], 3)), format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
