"""Serves the pages of a catalog on the loopback to whoever has the token; every request only reads."""

import asyncio
import hmac
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from aiohttp import web

from igd_ray.errors import IgdError, InputError
from igd_ray.report.html import content_policy
from igd_ray.viewer.pages import PAGES, Site, error_page
from igd_ray.viewer.questions import Questions

HOST = "127.0.0.1"

# Names of this machine in an address. Another one led here by a name server would let its pages read these.
NAMES = (HOST, "localhost")

# A statement stands in an address.
LONGEST_ADDRESS = 2**16

# How long requests that are being answered when the server ends may take, and what is being asked for them.
SECONDS_TO_END, SECONDS_OF_QUESTIONS = 0.5, 5.0

TOKEN_BYTES = 24


def serve(site: Site, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve `site` until the program is interrupted.

    Args:
        site: what is shown.
        port: where; 0 takes a free one.
        ready: is told the address, with the token, when it can be opened.

    Raises:
        InputError: if the port cannot be used.
    """
    asyncio.run(_serve(site, port, ready))


async def _serve(site: Site, port: int, ready: Callable[[str], None]) -> None:
    answering = Answering(site, secrets.token_urlsafe(TOKEN_BYTES))
    application = web.Application()
    application.router.add_get("/{path:.*}", answering.answer)
    application.on_response_prepare.append(_add_headers)
    runner = web.AppRunner(
        application,
        access_log=None,
        # Whoever closes a page wants no answer.
        handler_cancellation=True,
        shutdown_timeout=SECONDS_TO_END,
        max_line_size=LONGEST_ADDRESS,
    )
    await runner.setup()
    try:
        place = web.TCPSite(runner, HOST, port)
        try:
            await place.start()
        except OSError as error:
            raise InputError(
                f"--port {port} cannot be used: {error.strerror}; leave it out to take a free one"
            ) from None
        ready(f"http://{HOST}:{runner.addresses[0][1]}/{answering.token}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
        answering.end()


class Answering:
    """Answers requests, each in a thread of its own beside the server.

    Args:
        site: what is shown.
        token: what an address must begin with.
    """

    def __init__(self, site: Site, token: str) -> None:
        self._site, self.token = site, token
        self._running: dict[threading.Thread, Questions] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """Return the page that a request asks for."""
        given, _, name = request.match_info["path"].partition("/")
        if request.url.host not in NAMES or not hmac.compare_digest(given.encode(), self.token.encode()):
            return web.Response(status=403, text="The address needs the token that `igd view` has printed.\n")
        build = PAGES.get(name)
        if build is None:
            return _page(404, error_page("Not found", f"There is no page {name!r}."))
        asked = {each: request.query.getall(each) for each in request.query}
        questions = Questions()
        site = self._site._replace(questions=questions)
        try:
            return _page(200, await self._in_thread(lambda: build(site, asked), questions))
        except InputError as error:
            return _page(400, error_page("This cannot be shown", str(error)))
        except IgdError as error:
            return _page(500, error_page("The catalog could not be read", str(error)))
        finally:
            questions.end()

    def _in_thread(self, work: Callable[[], str], questions: Questions) -> Awaitable[str]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()

        def finish(set_result: Callable[[], None]) -> None:
            if not future.done():
                set_result()

        def run() -> None:
            try:
                done = partial(future.set_result, work())
            except Exception as error:  # told to whoever asked
                done = partial(future.set_exception, error)
            with suppress(RuntimeError):  # the server has ended in the meantime
                loop.call_soon_threadsafe(finish, done)
            self._running.pop(thread, None)

        thread = threading.Thread(target=run, daemon=True)
        self._running[thread] = questions
        thread.start()
        return future

    def end(self) -> None:
        """Interrupt what is being asked: DuckDB aborts a program that ends in the midst of it."""
        end = time.monotonic() + SECONDS_OF_QUESTIONS
        while self._running and time.monotonic() < end:
            for thread, questions in list(self._running.items()):
                questions.end()
                thread.join(timeout=0.05)


def _page(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html")


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    policy = f"{content_policy()}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    response.headers.update(
        {
            "Content-Security-Policy": policy,
            # The address holds the token.
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Server": "igd",
        }
    )
