"""After a whole journey nothing secret is left: not in the database and its files, not in a log, not in any page.

Canaries are what a customer types, says, is told and is given, and what a provider trusts us with. Each was at work; then
the whole database, every file of the server and every page is searched for it; what may be there is found in the same way.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from models.secrets import hash_key_secret
from tests.dashboard.endpoints import gets
from tests.dashboard.test_walks import MACHINES, Person
from tests.dashboard.visitor import Visitor, visiting
from tests.rig import Answer, Customer, Rig, start_rig
from tests.servers import postgres_programs
from tests.stores import CLUSTER, SQLITE, on

CREDENTIAL = "canary-provider-credential"
SAID = {name: f"canary-{name}" for name in ("question", "instructions", "tool", "user", "metadata", "answer")}
FIRST, SECOND, THIRD, WRONG = (f"canary password {n}" for n in ("one", "two", "three", "never right"))
AGENT, KEY_NAME = "canary-of-a-browser/7.0", "canary of a key"


@pytest.mark.only(SQLITE)
async def test_nothing_secret_is_left_of_a_journey(rig: Rig, stranger: Visitor) -> None:
    await travel_and_search(rig, stranger)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    settings = {"GATEWAY_SIGNUP": "open", "GATEWAY_TRUSTED_PROXIES": "127.0.0.1"}
    with on(CLUSTER), start_rig(tmp_path_factory.mktemp("canaries"), **settings) as running:
        yield running


@pytest.mark.drill
async def test_nothing_secret_is_left_on_postgresql(cluster: Rig) -> None:
    async with visiting(cluster) as visitor:
        await travel_and_search(cluster, visitor)


async def travel_and_search(rig: Rig, ada: Visitor) -> None:
    secrets = SAID | {"credential": CREDENTIAL} | await _get_in(rig, ada)
    request_id, key_id = await _call(rig, ada, secrets)

    stored, files = _database(rig), {path: path.read_bytes() for path in rig.folder.rglob("*") if path.is_file()}
    for name, secret in secrets.items():
        assert secret.encode() not in stored, f"{name} is in the database"
        assert [path for path, content in files.items() if secret.encode() in content] == [], name
    kept = [ada.email, KEY_NAME, AGENT, request_id, *(hash_key_secret(secrets[n]) for n in ("key", "renewed key"))]
    assert [word for word in kept if word.encode() not in stored] == [], "the search does not find what is there"
    logs = b"".join(content for path, content in files.items() if path.suffix == ".log")
    assert rig.server.log in files
    assert [word for word in (*kept[:3], ada.address) if word.encode() in logs] == [], "personal, and in a log"

    [(session_id,)] = rig.sql("SELECT id FROM session WHERE agent = ? AND ended_us IS NULL", AGENT)
    ids = {"key_id": [key_id], "request_id": [request_id], "session_id": [session_id], "token": [secrets["link"]]}
    person = Person(ada, 0, ids | {"name": [f"{datetime.now(UTC):%Y-%m}"]}, {})
    pages = {
        one.path: (await ada.get(person.fill(one))).text for one in gets() if one.path not in MACHINES - {"/metrics"}
    }
    for path, text in pages.items():
        assert [name for name, secret in secrets.items() if secret in text] == [], path
    assert ada.email in pages["/account"]
    assert request_id in pages["/usage.csv"]


async def _get_in(rig: Rig, ada: Visitor) -> dict[str, str]:
    """Three passwords, a link, a voucher and two secrets of a key, each used; by name, with the cookies of the time."""
    found = {"password": FIRST, "second password": SECOND, "third password": THIRD, "wrong password": WRONG}
    browser = {"User-Agent": AGENT}
    await ada.send("/signup", email=ada.email, password=FIRST)
    found |= {"first session": ada.cookies["session"], "first device": ada.cookies["device"]}
    await ada.send("/", "/signout")
    assert (await ada.sign_in(ada.email, WRONG)).status == 422
    assert (await ada.sign_in(ada.email, FIRST)).path == "/"
    assert (await ada.send("/account", "/account/password", present=WRONG, password=SECOND)).status == 422
    assert (await ada.send("/account", "/account/password", present=FIRST, password=SECOND)).status == 200
    found |= {"second session": ada.cookies["session"]}
    link = rig.desk.accounts.reset_link(ada.email)
    assert (await ada.send(link, password="short")).status == 422
    assert (await ada.send(link, password=THIRD, headers=browser)).path == "/account?done=password"
    found |= {"session": ada.cookies["session"], "device": ada.cookies["device"], "link": link.removeprefix("/reset/")}
    batch = rig.desk.vouchers.make(f"canary-{ada.email}", credits="5", count=1, reason="test")
    found |= {"voucher": batch.to_frame()["code"].iloc[0]}
    assert (await ada.send("/billing", "/billing/redeem", code=found["voucher"])).status == 200
    return found


async def _call(rig: Rig, ada: Visitor, secrets: dict[str, str]) -> tuple[str, int]:
    """A key for models that answer, break off and fail, called with both its secrets; ids of the served call and the key."""
    body = {
        "id": "x", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": SAID["answer"]}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }  # fmt: skip
    upstream = await rig.provider.script(
        "canary", headers={"Content-Type": "application/json"}, chunks=[json.dumps(body)]
    )
    answering = rig.alias(upstream)
    others = [rig.alias(f"sim:{fault},echo_key,tag=canary") for fault in ("status=400", "status=401", "cut=2")]
    page = await ada.send("/keys/new", name=KEY_NAME, models=[answering, *others])
    path, secrets["key"] = _key_on(page.text)
    page = await ada.send(path, f"{path}/regenerate", grace="3600")
    _, secrets["renewed key"] = _key_on(page.text)
    asked = {
        "messages": [
            {"role": "system", "content": SAID["instructions"]},
            {"role": "user", "content": SAID["question"]},
        ],
        "tools": [{"type": "function", "function": {"name": SAID["tool"], "parameters": {"type": "object"}}}],
        "user": SAID["user"],
        "metadata": {"note": SAID["metadata"]},
    }
    statuses, served = [], Answer(0, {}, b"")
    for secret in (secrets["key"], secrets["renewed key"]):
        key = Customer(ada.email, 0, secret, {"Authorization": f"Bearer {secret}"})
        served = await rig.chat(key, answering, **asked)
        failed = [await rig.chat(key, one, stream=one is others[2], **asked) for one in others]
        statuses += [answer.status for answer in (served, *failed)]
        assert SAID["answer"] in served.body.decode()
    assert statuses == [200, 400, 502, 200] * 2
    [*_, call] = await rig.provider.calls(upstream)
    assert [word for word in (*list(SAID.values())[:3], CREDENTIAL) if word not in json.dumps(call)] == []
    return served.headers["x-request-id"], int(path.rpartition("/")[2])


def _key_on(text: str) -> tuple[str, str]:
    """The address of a key, and its secret, from the page that shows it once."""
    return re.findall(r'href="(/keys/\d+)"', text)[0], re.findall(r'id="secret">(sk-st-[\w-]+)<', text)[0]


def _database(rig: Rig) -> bytes:
    """All of it: the very pages of the file with its log, or a dump."""
    if rig.database_url.startswith("sqlite"):
        return b"".join(path.read_bytes() for path in rig.folder.glob("gateway.db*"))
    command = [postgres_programs() / "pg_dump", rig.database_url.replace("postgres://", "postgresql://")]
    return subprocess.run(command, check=True, capture_output=True).stdout
