"""Owns how pages are made: Jinja templates with escaping on, the words and numbers in them, and the files they load."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import mimetypes
import os
import sys
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import Environment, FileSystemBytecodeCache, PackageLoader, StrictUndefined
from jinja2.bccache import Bucket
from sanic import Blueprint, Request
from sanic.response import HTTPResponse

from gateway.settings import Settings
from models.ids import SECOND_US, new_request_id, now_us, to_datetime
from models.prices import CREDITS_PER_USD, NANO_PER_CREDIT, credits_text, rate_to_usd

STATIC = Path(__file__).parent.parent / "static"
FOREVER = "public, max-age=31536000, immutable"
_SMALLEST_TO_PRESS = 1024


class Asset:
    """A file that pages load. Its address changes with its content, so browsers may keep it for ever."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.body = path.read_bytes()
        digest = hashlib.sha256(self.body).hexdigest()[:12]
        self.address = f"/static/{path.parent.name}/{path.stem}.{digest}{path.suffix}"
        self.content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self.pressed = gzip.compress(self.body, mtime=0) if len(self.body) > _SMALLEST_TO_PRESS else None


class _Compiled(FileSystemBytecodeCache):
    """Compiled templates, kept as Python keeps compiled modules: compiling all takes a sixth of a server's start."""

    @classmethod
    def beside_this_module(cls) -> _Compiled | None:
        folder = Path(__file__).parent / "__pycache__"
        # What one version of Jinja has compiled another may not run.
        pattern = f"__jinja2-{jinja2.__version__}_%s.cache"
        return cls(str(folder), pattern) if not sys.dont_write_bytecode and os.access(folder, os.W_OK) else None

    def dump_bytecode(self, bucket: Bucket) -> None:
        # As with modules: without room for it, it is compiled anew next time.
        with contextlib.suppress(OSError):
            super().dump_bytecode(bucket)


class Site:
    """The dashboard's looks: one for the whole server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        paths = [path for folder in ("dashboard", "vendor") for path in sorted((STATIC / folder).iterdir())]
        self.assets = {path.name: Asset(path) for path in paths if path.suffix in (".css", ".js", ".svg")}

    @cached_property
    def templates(self) -> Environment:
        environment = Environment(
            loader=PackageLoader("gateway.dashboard"),
            autoescape=True,
            auto_reload=False,
            bytecode_cache=_Compiled.beside_this_module(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            brand=self.settings.brand,
            asset=lambda name: self.assets[name].address,
            signup=self.settings.signup,
            aligner=aligner,
        )
        environment.filters.update(
            credits=amount_text,
            usd=usd_text,
            rate=rate_text,
            day=day_text,
            moment=moment_text,
            count=count_text,
            iso=iso_text,
            took=took_text,
        )
        return environment

    def warm_up(self) -> None:
        """Compile every template, which takes longer than to use it: no request is to wait for that."""
        for name in self.templates.list_templates():
            self.templates.get_template(name)

    def html(self, template: str, **values: Any) -> str:
        return self.templates.get_template(template).render(values)

    def blueprint(self) -> Blueprint:
        routes = Blueprint("dashboard-assets")
        for asset in self.assets.values():
            routes.add_route(_serve(asset), asset.address, methods=["GET", "HEAD"], name=asset.name.replace(".", "-"))
        return routes


def _serve(asset: Asset) -> Any:
    async def serve(request: Request) -> HTTPResponse:
        headers = {
            "cache-control": FOREVER,
            "vary": "accept-encoding",
            "x-content-type-options": "nosniff",
            "x-request-id": new_request_id(now_us()),
        }
        if asset.pressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return HTTPResponse(asset.pressed, 200, headers | {"content-encoding": "gzip"}, asset.content_type)
        return HTTPResponse(asset.body, 200, headers, asset.content_type)

    return serve


# ── words and numbers ─────────────────────────────────────────────────────────────────────────────────────────────


def amount_text(nano: int) -> str:
    """Exact credits for people, thousands set apart: "1,234.5"; files and scripts take `credits_text`."""
    whole, point, rest = credits_text(abs(nano)).partition(".")
    return f"{'-' if nano < 0 else ''}{int(whole):,}{point}{rest}"


def aligner(amounts: Iterable[int]) -> Callable[[int], str]:
    """Writes exact credits with as many decimals as the longest of these needs, so that a column is read down its points."""
    places = max((len(amount_text(nano).partition(".")[2]) for nano in amounts), default=0)

    def text(nano: int) -> str:
        whole, _, rest = amount_text(nano).partition(".")
        return f"{whole}.{rest.ljust(places, '0')}" if places else whole

    return text


def usd_text(nano: int) -> str:
    """Nano-credits as exact US dollars: 150_000_000_000 is "1.5", thousands set apart."""
    whole, rest = divmod(abs(nano), NANO_PER_CREDIT * CREDITS_PER_USD)
    text = f"{whole:,}.{rest:011d}".rstrip("0").rstrip(".")
    return f"-{text}" if nano < 0 else text


def rate_text(rate_nano: int) -> str:
    """A rate in USD per million tokens, exact."""
    return f"{rate_to_usd(rate_nano).normalize():f}"


def count_text(number: int) -> str:
    return f"{number:,}"


def took_text(ms: int) -> str:
    """How long something took: 840 ms, 2.4 s."""
    return f"{ms} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def day_text(at_us: int) -> str:
    """2 Nov 2026, in UTC."""
    moment = to_datetime(at_us)
    return f"{moment.day} {moment:%b %Y}"


def moment_text(at_us: int) -> str:
    """2026-11-02 13:05:09, in UTC."""
    return f"{to_datetime(at_us):%Y-%m-%d %H:%M:%S}"


def iso_text(at_us: int) -> str:
    """2026-11-02T13:05:09+00:00, for machines."""
    return to_datetime(at_us // SECOND_US * SECOND_US).isoformat()
