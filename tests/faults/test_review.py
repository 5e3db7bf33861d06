"""Faults that a reading of the request path found, each shown against a running server before it was mended."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

import ops
from tests.faults.wire import chat_request, connect
from tests.rig import Rig, start_rig


async def test_the_bound_goes_up_under_the_name_the_provider_knows(rig: Rig) -> None:
    """A provider that ignores the client's name for it would otherwise not be bounded by what is held."""
    rig.desk.catalog.add_provider("named", base_url=rig.provider.base_url, api_key="x", max_tokens_field="max_tokens")
    alias = rig.alias(published=True)
    rig.desk.catalog.add_route(alias, provider="named", upstream_model="sim:tag=named", position=1, weight=1)
    rig.settle_feed()
    ada = rig.customer(models=[alias])
    assert (await rig.chat(ada, alias, max_completion_tokens=3)).status == 200
    [call] = await rig.provider.calls("sim:tag=named")
    assert call["body"]["max_tokens"] == 3
    assert "max_completion_tokens" not in call["body"]


@pytest.mark.parametrize("name", ["Model", "MAX_TOKENS", "N", "Stream", "Models", "me\u017fsages"])
async def test_a_known_name_in_another_case_is_refused(rig: Rig, name: str) -> None:
    """Providers written in Go read names whatever their case, and the last one wins."""
    alias = rig.alias("sim:tag=case")
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias, max_tokens=1, **{name: 100_000})
    assert answer.status == 400
    assert answer.error["param"] == name
    assert await rig.provider.calls("sim:tag=case") == []


async def test_a_client_that_does_not_read_stops_nobody_elses_comments(tmp_path: Path) -> None:
    with start_rig(tmp_path, GATEWAY_KEEP_ALIVE_S="0.5", GATEWAY_WRITE_TIMEOUT_S="1") as rig:
        big = rig.alias("sim:words=200000,tag=big", max_output_tokens=1_000_000, context_tokens=1_000_000)
        slow = rig.alias("sim:first_ms=4000,words=1,tag=slow")
        eve = rig.customer(models=[big, slow])
        bodies = [
            {"model": big, "messages": [{"role": "user", "content": "x"}]},
            {"model": slow, "messages": [{"role": "user", "content": "x"}], "stream": True},
        ]
        _, writer = await connect(rig.url, limit=1024)
        for body in bodies:
            writer.write(chat_request(eve, json.dumps(body).encode()))
        await rig.provider.wait("sim:first_ms=4000,words=1,tag=slow", timeout=20)
        ada = rig.customer(models=[slow])
        answer = await rig.chat(ada, slow, stream=True)
        assert answer.body.count(b": keep-alive") >= 2
        writer.transport.abort()


async def test_a_revoked_key_dies_although_the_catalog_cannot_be_read(tmp_path: Path) -> None:
    with start_rig(tmp_path) as rig:
        alias, broken = rig.alias("sim:words=2"), rig.alias("sim:words=2,tag=broken")
        ada, bob = (rig.customer(models=[alias, broken]) for _ in range(2))
        assert (await rig.chat(ada, alias)).status == (await rig.chat(bob, alias)).status == 200
        rig.desk.catalog.add_provider("sealed-elsewhere", base_url=rig.provider.base_url, api_key="x")
        rig.desk.catalog.add_route(
            broken, provider="sealed-elsewhere", upstream_model="sim:words=2", position=9, weight=1
        )
        _seal_under_another_key(rig, "sealed-elsewhere")
        rig.desk.keys.revoke(ada.key_id)
        async with asyncio.timeout(3):
            while {answer.status for answer in await rig.everywhere(ada, alias)} != {401}:
                await asyncio.sleep(0.05)
        # Everything else goes on, and later changes are seen.
        assert (await rig.chat(bob, alias)).status == 200
        assert (await rig.chat(rig.customer(models=[rig.alias("sim:words=2,tag=later")]), alias)).status == 403


def _seal_under_another_key(rig: Rig, provider: str) -> None:
    sealed = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    rig.sql("UPDATE provider SET credential = ? WHERE name = ?", sealed, provider)
    rig.sql("INSERT INTO change (kind, subject_id, at_us) VALUES ('catalog', 0, 0)")


async def test_a_stream_that_says_nothing_but_done_is_no_answer(rig: Rig) -> None:
    upstream = await rig.provider.script(
        "only-done", headers={"Content-Type": "text/event-stream"}, chunks=["data: [DONE]\n\n"]
    )
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias, stream=True)
    assert answer.status == 502 or not answer.is_done
    await rig.settled(ada)
    assert rig.spent_nano(ada) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_inside_a_choice_is_an_error_and_free(rig: Rig, stream: bool) -> None:
    """OpenRouter says so with status 200."""
    choice = {"index": 0, "finish_reason": "error", "error": {"code": 502, "message": "no"}}
    said = {
        "id": "1",
        "object": "chat.completion",
        "model": "m",
        "choices": [choice | {"message": {"content": "half"}}],
    }
    chunk = said | {"object": "chat.completion.chunk", "choices": [choice | {"delta": {"content": "half"}}]}
    chunks = [f"data: {json.dumps(chunk)}\n\n", "data: [DONE]\n\n"] if stream else [json.dumps(said)]
    kind = "text/event-stream" if stream else "application/json"
    upstream = await rig.provider.script(f"choice-error-{stream}", headers={"Content-Type": kind}, chunks=chunks)
    alias = rig.alias(upstream)
    ada = rig.customer(models=[alias])
    answer = await rig.chat(ada, alias, stream=stream)
    assert answer.status == 502 or not answer.is_done
    await rig.settled(ada)
    assert rig.spent_nano(ada) == 0


async def test_a_part_of_a_providers_own_kind_is_counted_by_its_text(rig: Rig) -> None:
    """Text in a part that only some provider knows must not slip under the hold."""
    alias = rig.alias("sim:words=2,tag=own-part", context_tokens=1_000_000)
    poor = rig.customer(credits="1", models=[alias])
    content = [{"type": "document", "source": {"type": "text", "data": "word " * 60_000}}]
    answer = await rig.chat(poor, alias, messages=[{"role": "user", "content": content}], max_tokens=1)
    assert answer.status == 402


async def test_an_edited_limit_counts_what_was_used_in_units(rig: Rig) -> None:
    """Forty tokens used under a quota of ten are forty tokens of a million, not four minutes of it."""
    alias = rig.alias("sim:words=40")
    ada = rig.customer(models=[alias])
    rig.desk.limits.set(key=ada.key_id, unit="tokens", quota=10, window_s=60)
    assert (await rig.chat(ada, alias, max_tokens=40)).status == 200
    assert (await rig.chat(ada, alias, max_tokens=40)).status == 429
    rig.desk.limits.set(key=ada.key_id, unit="tokens", quota=1_000_000, window_s=60)
    rig.settle_feed()
    answer = await rig.chat(ada, alias, max_tokens=40)
    assert answer.status == 200
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) > 999_000


@pytest.mark.only("sqlite")
def test_a_wrong_or_lost_secret_ends_the_server_at_once_and_is_not_replaced(tmp_path: Path) -> None:
    with start_rig(tmp_path) as rig:
        rig.server.stop()
        secret = Path(rig.database_url.removeprefix("sqlite://") + ".secret")
        kept = secret.read_text()
        secret.write_text("0" * 64)
        wrong = rig.run("serve", "--port", "0")
        assert (wrong.returncode, "GATEWAY_SECRET_KEY" in wrong.stderr) == (2, True)
        secret.unlink()
        for command in ("migrate", "serve"):
            lost = rig.run(command)
            assert (lost.returncode, "restore it" in lost.stderr) == (2, True)
            assert not secret.exists()
        secret.write_text(kept)
        rig.start()


@pytest.mark.only("cluster")
def test_a_wrong_or_missing_secret_ends_a_server_on_postgresql_at_once(tmp_path: Path) -> None:
    with start_rig(tmp_path) as rig:
        right = rig.environment["GATEWAY_SECRET_KEY"]
        # Nor may an operator seal a credential that the servers could not read.
        rig.environment["GATEWAY_SECRET_KEY"] = "0" * 64
        with rig.connect("olga") as desk, pytest.raises(ops.SetupError, match="that the running servers use"):
            desk.catalog.add_provider("other", base_url="https://other.test", api_key="k")
        rig.server.stop()
        for secret in ("0" * 64, ""):
            rig.environment["GATEWAY_SECRET_KEY"] = secret
            refused = rig.run("serve", "--port", "0")
            assert (refused.returncode, "GATEWAY_SECRET_KEY" in refused.stderr) == (2, True), refused.stderr
            assert "Traceback" not in refused.stderr
        assert "required with PostgreSQL: the one that the servers use; if there is none yet" in refused.stderr
        rig.environment["GATEWAY_SECRET_KEY"] = right
        rig.start()
