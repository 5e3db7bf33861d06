"""Owns the product's documentation under `/docs`: its pages, their order, and what each page knows about its reader.

The words are in `templates/docs`, the facts of the code that they quote in `documentation_facts.py`. The page of the OpenAPI
document (`/docs/api`) is `gateway/docs.py`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sanic.response import HTTPResponse

from gateway.catalog import Alias
from gateway.dashboard.documentation_facts import FACTS, error_rows, limit_words
from gateway.dashboard.pages import Pages
from gateway.dashboard.visits import Visit
from models.errors import NotFound
from models.prices import Meters, PriceVersion

pages = Pages("documentation")
# What a reader puts their own key in place of. No page ever shows a real one.
YOUR_KEY, YOUR_MODEL = "YOUR_API_KEY", "YOUR_MODEL"
# An alias that can be pasted into a shell, JSON and YAML as it stands.
_PLAIN = re.compile(r"[A-Za-z0-9][\w./:@+-]*", re.ASCII)
_EXAMPLE = Meters(fresh=1_000, output=200)


class Chapter(NamedTuple):
    slug: str
    title: str
    part: str

    @property
    def address(self) -> str:
        return f"/docs/{self.slug}" if self.slug else "/docs"

    @property
    def template(self) -> str:
        return f"docs/{self.slug or 'quick-start'}.html"


CHAPTERS = (
    Chapter("", "Quick start", "Begin"),
    Chapter("keys", "API keys", "Begin"),
    Chapter("prices", "Models & prices", "Begin"),
    Chapter("billing", "Billing & credits", "Begin"),
    Chapter("chat-completions", "Chat completions", "The API"),
    Chapter("models", "Models", "The API"),
    Chapter("errors", "Errors", "The API"),
    Chapter("limits", "Rate limits", "The API"),
    Chapter("sdks", "SDKs", "Libraries"),
    Chapter("langchain", "LangChain", "Libraries"),
    Chapter("llamaindex", "LlamaIndex", "Libraries"),
    Chapter("ai-sdk", "Vercel AI SDK", "Libraries"),
    Chapter("litellm", "LiteLLM SDK", "Libraries"),
    Chapter("cursor", "Cursor", "Editors & agents"),
    Chapter("cline", "Cline", "Editors & agents"),
    Chapter("roo-code", "Roo Code", "Editors & agents"),
    Chapter("continue", "Continue", "Editors & agents"),
    Chapter("opencode", "opencode", "Editors & agents"),
    Chapter("qwen-code", "Qwen Code", "Editors & agents"),
    Chapter("aider", "aider", "Editors & agents"),
    Chapter("codex-and-claude-code", "Codex & Claude Code", "Editors & agents"),
    Chapter("n8n", "n8n", "Apps"),
    Chapter("dify", "Dify", "Apps"),
    Chapter("open-webui", "Open WebUI", "Apps"),
    Chapter("librechat", "LibreChat", "Apps"),
    Chapter("llm", "llm", "Apps"),
    Chapter("apps", "Any other app", "Apps"),
    Chapter("privacy", "Privacy & security", "Your data"),
    Chapter("deletion", "Stopping & deletion", "Your data"),
)
_BY_SLUG = {chapter.slug: i for i, chapter in enumerate(CHAPTERS)}


@pages.page("/docs", public=True)
async def show_first(visit: Visit) -> HTTPResponse:
    return await show_chapter(visit, "")


@pages.page("/docs/<slug:str>", public=True)
async def show_chapter(visit: Visit, slug: str) -> HTTPResponse:
    """Raises NotFound for a page that there is not."""
    place = _BY_SLUG.get(slug)
    if place is None:
        raise NotFound("The documentation has no page of that name; its first page lists all there are.")
    chapter = CHAPTERS[place]
    return visit.render(
        chapter.template,
        chapter=chapter,
        chapters=CHAPTERS,
        before=CHAPTERS[place - 1] if place else None,
        after=CHAPTERS[place + 1] if place + 1 < len(CHAPTERS) else None,
        **await _of_reader(visit),
        **FACTS,
        settings=visit.gateway.settings,
        takes_payments=visit.gateway.payments is not None,
        errors=error_rows(),
        limits=limit_words(visit.gateway.catalog.snapshot),
    )


async def _of_reader(visit: Visit) -> dict[str, Any]:
    """What the examples are filled in with: the reader's own address and a model that their keys may call now."""
    offered = await _offered(visit)
    alias, price = offered[0] if offered else (None, None)
    return {
        "base_url": visit.api_url,
        "key": YOUR_KEY,
        "alias": alias.name if alias else YOUR_MODEL,
        "price": price.tiers_at(visit.at_us)[0].rates if price else None,
        "example": _EXAMPLE,
        "example_nano": price.charge_nano(_EXAMPLE, visit.at_us) if price else None,
    }


async def _offered(visit: Visit) -> list[tuple[Alias, PriceVersion]]:
    """The aliases that the reader's keys may call; of somebody without such a key, or signed out, all that are published."""
    snapshot = visit.gateway.catalog.snapshot
    for scope in (await _scope(visit), None):
        found = [pair for pair in snapshot.listed(scope, visit.at_us) if _PLAIN.fullmatch(pair[0].name)]
        if found:
            return found
    return []


async def _scope(visit: Visit) -> frozenset[int]:
    if visit.session is None:
        return frozenset()
    rows = await visit.database.rows(
        "SELECT DISTINCT s.model_id FROM key_model s JOIN api_key k ON k.id = s.api_key_id WHERE k.account_id = ?"
        " AND k.revoked_us IS NULL AND k.disabled_us IS NULL AND (k.expires_us IS NULL OR k.expires_us > ?)",
        [visit.me.account_id, visit.at_us],
    )
    return frozenset(row["model_id"] for row in rows)
