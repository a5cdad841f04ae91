"""`igd view`: the runs of a catalog in a browser, on this machine only."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from igd_ray.catalog import Catalog
from igd_ray.errors import InputError
from igd_ray.verbs.clean_images import clean_images
from igd_ray.verbs.flags import add_catalog_flag

if TYPE_CHECKING:
    from igd_ray.report.preparation.gallery import Pixels

HIGHEST_PORT = 65535


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = (
        "Lists the runs with a filter, shows the report and the images of each, sets runs beside each other, and takes "
        "SQL. It only reads, listens on 127.0.0.1 alone, and answers only to the address that it prints, which holds a "
        "token. Ctrl-C ends it with exit code 130."
    )
    add_catalog_flag(parser)
    parser.add_argument("--port", type=int, default=0, metavar="PORT", help="on 127.0.0.1 (default: a free one)")
    parser.add_argument(
        "--clean-images",
        action="store_true",
        default=False,
        help="show clean images beside points, from where each run says its data is: folders of this machine or "
        "downloads, so for catalogs that you trust (default: of the embedded digits only)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the address, and serve until the program is interrupted."""
    # Imported here: other verbs do not wait for the server's library.
    from igd_ray.viewer.pages import Site
    from igd_ray.viewer.server import serve

    if not 0 <= arguments.port <= HIGHEST_PORT:
        raise InputError(f"--port must lie in 0…{HIGHEST_PORT}, not {arguments.port}")
    catalog = Catalog(arguments.catalog)
    catalog.check()
    images = clean_images if arguments.clean_images else embedded_images

    def ready(address: str) -> None:
        print(f"{catalog} is shown at {address}", flush=True)
        print("Ctrl-C ends it", flush=True)

    try:
        serve(Site(catalog, images), port=arguments.port, ready=ready)
    except KeyboardInterrupt as interrupt:
        interrupt.args = (f"{catalog} is shown no longer",)
        raise
    return 0


def embedded_images(run: Mapping[str, Any], image_ids: Sequence[str]) -> dict[str, "Pixels"]:
    """Return images of the digits, as `clean_images` does.

    Raises:
        InputError: if the run says that its data lies elsewhere: a catalog may come from anybody.
    """
    try:
        config = json.loads(run["config"] or "{}")
    except ValueError:
        config = {}
    if not isinstance(config, dict) or config.get("data") != "digits":
        raise InputError("they lie outside the catalog; igd view --clean-images shows them")
    return clean_images(run, image_ids)
