"""The page behind an address."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import Any

from ..endpoint_handler import MOST_BYTES
from ..evaluation import FrozenCLIP
from .shelf import Shelf
from .visits import Visits

# What a browser may load for the page: nothing that this server does not have.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "object-src 'none'; form-action 'self'"
)
WAITING = 64  # calls; one more is told to come back
UPLOADS = "GRADIO_TEMP_DIR"  # the environment variable that Gradio takes the folder of uploads from


class OnlyFromHere:
    """Tell browsers, with every answer, to load nothing from elsewhere.

    Args:
        app: an ASGI application.
    """

    def __init__(self, app: Callable[..., Any]):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
                message = {**message, "headers": [*headers, (b"referrer-policy", b"no-referrer")]}
            await send(message)

        await self.app(scope, receive, with_policy)


def check_gradio() -> None:
    """Check that the page can be shown.

    Raises:
        ValueError: if Gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise ValueError(
            "The page needs the package 'gradio', which is not installed: pip install \"peft-coop[app]\" (in a clone: "
            'pip install ".[app]").'
        )


def check_address(host: str, port: int | None) -> None:
    """Check that the page can be where it is to be, before anything is loaded for it.

    Args:
        host: the address to listen at.
        port: None: any.

    Raises:
        OSError: if it cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError as error:
        place = host if port is None else f"{host}, port {port}"
        way_out = "choose another host" if port is None else "choose another port, or none for the first free one"
        raise OSError(f"The page cannot listen at {place} ({error.strerror or error}): {way_out}.") from error


@contextmanager
def _one_folder() -> Iterator[None]:
    """All that visitors bring, and what is learned for them, lies in a temporary folder that is gone with the page."""
    before = os.environ.get(UPLOADS), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="peft-coop-app-", ignore_cleanup_errors=True) as folder:
        os.environ[UPLOADS] = tempfile.tempdir = folder
        try:
            yield
        finally:
            os.environ.pop(UPLOADS)
            if before[0] is not None:
                os.environ[UPLOADS] = before[0]
            tempfile.tempdir = before[1]


@contextmanager
def _until_told_to_end() -> Iterator[None]:
    """What stops services, SIGTERM, ends the page as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(
    shelf: Shelf,
    clip: FrozenCLIP,
    host: str = "127.0.0.1",
    port: int | None = None,
    title: str = "peft-coop",
    tell: Callable[[str], None] = lambda address: None,
) -> None:
    """Show the page until the process is interrupted or told to end; nothing of its visitors is left behind.

    Args:
        shelf: what it offers.
        clip: which new prompts are learned for.
        host: the address to listen at; "0.0.0.0" for all of this machine.
        port: None: the first free one from 7860 on.
        title: of the page.
        tell: called with the page's address once it is there.

    Raises:
        ValueError: if Gradio is not installed.
        OSError: if it cannot listen there, as where the port is taken.
    """
    check_gradio()
    check_address(host, port)
    visits = Visits(shelf, clip)
    with _until_told_to_end(), _one_folder(), closing(visits):
        import gradio as gr
        from starlette.middleware import Middleware

        from .page import CSS, THEME, Page

        blocks = Page(visits, title).blocks
        blocks.queue(max_size=WAITING)
        nothing_of_others: dict[str, Any] = {"share": False, "pwa": False, "ssr_mode": False, "mcp_server": False}
        look: dict[str, Any] = {"css": CSS, "theme": gr.themes.Base(**THEME), "footer_links": [], "run_history": False}
        try:
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=MOST_BYTES,
                enable_monitoring=False,
                app_kwargs={"middleware": [Middleware(OnlyFromHere)], "docs_url": None, "redoc_url": None},
                **nothing_of_others,
                **look,
            )
            tell(address)
            threading.Event().wait()
        finally:
            blocks.close(verbose=False)
