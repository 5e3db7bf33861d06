"""Owns what keeps the dashboard apart from other sites: its pages' headers, whose forms are ours, where links may lead."""

from __future__ import annotations

from urllib.parse import quote

from sanic import Request

from gateway.network import Client, split_address
from gateway.settings import Settings

HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    # Browsers that do not know `frame-ancestors` know this.
    "x-frame-options": "DENY",
    # Not `no-referrer`: with that, browsers hide a form's origin even from ourselves.
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# The characters of an address that stay as they are.
_PLAIN = "/?&=%:@!$'()*+,;~-._"


class Forged(Exception):
    """A form that did not come from our own page."""


def policy(settings: Settings) -> str:
    """The content security policy: nothing from elsewhere, no script or style in a page."""
    # Browsers hold redirects of a form against this, too, and paying leads to the payment provider's page.
    elsewhere = " https://checkout.stripe.com" if settings.stripe_secret_key else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        f"form-action 'self'{elsewhere}; frame-ancestors 'none'; base-uri 'none'; manifest-src 'self'"
    )


def comes_from_us(request: Request, client: Client, public_url: str | None) -> bool:
    """Whether a page of ours sent this: on the host that was asked, or the one that customers are told to use.

    What browsers say of it may be missing (very old ones, programs); then the form's token alone must do.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    if origin is None or origin == public_url:
        return True
    came_from = split_address(origin)
    # Where we know that the page came over https, one that came without may have been made by anybody on the way.
    schemes = ("https",) if client.is_secure else ("https", "http")
    return came_from.scheme in schemes and bool(came_from.netloc) and came_from.netloc == client.host


def safe_next(address: str | None) -> str:
    """Where to go on after signing in: a page of ours, whatever the address bar said."""
    # Browsers read a backslash as a slash, and leave control characters out before they read.
    if not address or not address.startswith("/") or address.startswith("//") or "\\" in address:
        return "/"
    return quote(address, safe=_PLAIN) if address.isprintable() else "/"
