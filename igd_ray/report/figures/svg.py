"""What all figures share: colours, style, and the SVG text that stands inside a page and takes its colours."""

import io
import re
from typing import Any

from markupsafe import Markup, escape
from matplotlib.figure import Figure

BLUE, ORANGE, GRAY = "#4f83cc", "#e07b39", "#8a919e"

# In points: 12 pixels, below which text is hard to read. Figures stand on the page in their own size.
SMALL = 9

# Stands for the colour of the page's text, which is known only to the browser (light or dark).
INK = "#010203"

# A longer name would leave a figure no room; the tables have it whole.
_LONGEST = 28

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name with dollar signs is a name
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRAY,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def short(name: str) -> str:
    """Return a name as it stands in a figure.

    >>> short("loir-16"), short("a" * 40)
    ('loir-16', 'aaaaaaaaaaaaaaaaaaaaaaaaaaa…')
    """
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def standalone(figure: Markup) -> str:
    """Return a figure as the text of an SVG file: black on white, as no page gives it colours."""
    opening = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return str(figure).replace("<svg ", opening + 'style="color: black; background: white" ', 1)


def svg(figure: Figure, label: str) -> Markup:
    """Return `figure` as an ``<svg>`` element without prolog, metadata and addresses of name spaces."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", text)
    text = text.replace(INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
    # matplotlib escapes every text that it writes.
    return Markup(text)
