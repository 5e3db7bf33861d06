"""What holds for every endpoint of the dashboard, whoever adds the next one: the tests walk the router of the server itself.

A new page that takes fields or ids gets a line in the tables below; a test says so, and which is missing.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest

from models.ids import new_request_id, now_us
from tests.dashboard.endpoints import Endpoint, contents, endpoints, gets, posts
from tests.dashboard.visitor import PASSWORD, Visitor, form_of, visiting
from tests.faults.wire import talk
from tests.rig import Customer, Rig

# The fields of a form, by its address; what only one person has is added in `furnish`.
FIELDS: dict[str, dict[str, Any]] = {
    "/account/name": {"name": "Mallory"},
    "/account/password": {"present": PASSWORD, "password": "mallory's password"},
    "/account/delete": {"password": PASSWORD},
    "/reset/<token:str>": {"password": "mallory's password"},
    "/billing/topup": {"amount": "25", "preset": "10"},
    "/keys/new": {"name": "Mallory's"},
    "/keys/<key_id:int>": {"name": "Mallory's"},
    "/keys/<key_id:int>/regenerate": {"grace": "0"},
    "/signin": {"password": PASSWORD},
    "/signup": {"email": "mallory@example.com", "password": PASSWORD},
}
# Fields of forms and addresses that take an id: address → field → whose ids go there.
ID_FIELDS: dict[str, dict[str, str]] = {"/usage": {"key": "key_id"}, "/usage.csv": {"key": "key_id"}}
# Fields that name nothing of anybody's: a choice, a day, a text of their own; or a place in one's own list to go on from.
_CHOICES = {"since", "until", "model", "outcome", "counts", "by", "show"}
_OF_A_KEY = {"expires", "limit_requests", "limit_tokens", "limit_concurrent"}
PLAIN_FIELDS: dict[str, set[str]] = {
    "/models": {"q", "requests", "input", "output"},
    "/usage": _CHOICES | {"before"},
    "/usage.csv": _CHOICES,
    "/billing": {"after"},
    "/keys": {"old"},
    "/keys/new": _OF_A_KEY | {"model"},
    "/keys/<key_id:int>": _OF_A_KEY,
    "/keys/<key_id:int>/regenerate": {"replaces"},
    "/reset/<token:str>": {"email"},
    "/signin": {"next"},
    "/docs": {"q"},
}
# Forms of a button alone.
BUTTONS = {
    "/signout",
    "/account/sessions/end",
    "/account/sessions/<session_id:int>/end",
    "/keys/<key_id:int>/disable",
    "/keys/<key_id:int>/enable",
    "/keys/<key_id:int>/end-grace",
    "/keys/<key_id:int>/delete",
}
# What addresses name that is nobody's own: a page of the documentation.
ANYBODYS = {"slug": "billing"}
# Forms that come from elsewhere on purpose, and prove that in another way.
FROM_ELSEWHERE = {"/stripe/webhook"}
# The page of the API: its library sets style attributes, and says so in a policy of its own.
OWN_POLICY = {"/docs/api"}
# Not the dashboard's, though they stand beside it.
MACHINES = {"/healthz", "/readyz", "/metrics", "/docs/api/openapi.json"}


@dataclass(frozen=True)
class Person:
    """Somebody with one of each thing that an id can name. `ids`: by the name of a path's parameter."""

    visitor: Visitor
    account_id: int
    ids: dict[str, list[Any]]
    own_fields: dict[str, dict[str, Any]]

    def fields(self, endpoint: Endpoint) -> dict[str, Any]:
        """What makes this form do something, so that it is the check which stops it and not a missing field."""
        return FIELDS.get(endpoint.path, {}) | self.own_fields.get(endpoint.path, {})

    def fill(self, endpoint: Endpoint) -> str:
        return endpoint.at(**{name: ANYBODYS.get(name) or self._one(name, kind) for name, kind in endpoint.parameters})

    def _one(self, name: str, kind: str) -> Any:
        return self.ids.get(name, self.of_kind(kind))[-1]

    def of_kind(self, kind: str) -> list[Any]:
        """All ids that fit there: one is not told from another by its name, only by whose it is."""
        return [id for ids in self.ids.values() for id in ids if isinstance(id, int) == (kind == "int")]


def forms() -> list[Endpoint]:
    """Every form of ours."""
    return [one for one in posts() if one.path not in FROM_ELSEWHERE]


async def furnish(rig: Rig, visitor: Visitor) -> Person:
    """A key, a call, a second session and a link to choose a password."""
    [(user_id, account_id)] = rig.sql('SELECT id, account_id FROM "user" WHERE email = ?', visitor.email)
    async with visiting(rig) as elsewhere:
        await elsewhere.sign_in(visitor.email)
    alias = rig.alias("sim:words=2")
    rig.desk.credits.grant(visitor.email, credits="10", reason="test", grant_key=f"walk-{account_id}")
    issued = rig.desk.keys.issue(visitor.email, name=f"canary of {account_id}", models=[alias])
    key = Customer(visitor.email, issued.id, issued.secret, {"Authorization": f"Bearer {issued.secret}"})
    answer = await rig.chat(key, alias)
    assert answer.status == 200
    sessions = rig.sql("SELECT id FROM session WHERE user_id = ? ORDER BY id", user_id)
    link = rig.desk.accounts.reset_link(visitor.email)
    ids = {
        "session_id": [id for (id,) in sessions],
        "key_id": [issued.id],
        "user_id": [user_id],
        "account_id": [account_id],
        "request_id": [answer.headers["x-request-id"]],
        "token": [link.removeprefix("/reset/")],
        "name": [f"{datetime.now(UTC):%Y-%m}"],
        "slug": ["billing"],
    }
    batch = rig.desk.vouchers.make(f"walk-{account_id}", credits="5", count=1, reason="test")
    code = batch.to_frame()["code"].iloc[0]
    own_fields: dict[str, dict[str, Any]] = {
        "/signin": {"email": visitor.email},
        "/billing/redeem": {"code": code},
        "/keys/new": {"models": alias},
        "/keys/<key_id:int>": {"models": alias},
        "/playground": {"models": alias},
    }
    return Person(visitor, account_id, ids, own_fields)


@pytest.fixture
async def her(rig: Rig, ada: Visitor) -> Person:
    return await furnish(rig, ada)


@pytest.fixture
async def him(rig: Rig, ben: Visitor) -> Person:
    return await furnish(rig, ben)


async def test_every_form_and_every_field_that_a_page_offers_is_in_the_tables(
    rig: Rig, her: Person, stranger: Visitor
) -> None:
    """Without its line, the walks below would walk past it."""
    known = [endpoint.path for endpoint in endpoints()]
    listed = {*FIELDS, *ID_FIELDS, *PLAIN_FIELDS, *her.own_fields, *BUTTONS}
    assert listed - set(known) == set(), "these are no endpoints any more"
    filled = {*FIELDS, *her.own_fields, *BUTTONS}
    assert [one.path for one in forms() if one.path not in filled] == [], "what makes these forms do something?"
    names = {name for endpoint in [*gets(), *forms()] for name, _ in endpoint.parameters}
    assert names - {*her.ids, *ANYBODYS} == set(), "whose are these, in an address?"

    asked: set[tuple[str, str]] = set()
    for visitor in (her.visitor, stranger):
        for endpoint in gets():
            if endpoint.path not in MACHINES | OWN_POLICY:
                page = await visitor.get(her.fill(endpoint))
                asked |= _fields_asked_for(page.text, known)
    assert len(asked) > 30
    strange = {
        (path, name)
        for path, name in asked
        if name not in {"csrf", "once", *FIELDS.get(path, {}), *her.own_fields.get(path, {})}
        and name not in {*ID_FIELDS.get(path, {}), *PLAIN_FIELDS.get(path, set())}
    }
    assert strange == set(), "does this name something of somebody's?"


def _fields_asked_for(text: str, known: list[str]) -> set[tuple[str, str]]:
    """Endpoint and field, of every form and every link to an address with fields."""
    found = []
    for attributes, inside in re.findall(r"<form\b([^>]*)>(.*?)</form>", text, re.S):
        action = re.search(r'action="([^"]*)"', attributes)
        # The playground's own are for its script, and go nowhere.
        found += [(action[1], name) for name in re.findall(r'\sname="([^"]+)"', inside) if action]
    for address in re.findall(r'href="(/[^"]*\?[^"]*)"', text):
        path, _, query = html.unescape(address).partition("?")
        found += [(path, name) for name, _ in parse_qsl(query.partition("#")[0])]
    return {(_endpoint_at(path, known), name) for path, name in found}


def _endpoint_at(address: str, known: list[str]) -> str:
    """`/keys/12` is at `/keys/<key_id:int>`."""
    if address in known:
        return address
    kinds = {"int": r"\d+", "str": r"[^/]+"}
    fits = [path for path in known if re.fullmatch(re.sub(r"<\w+:(\w+)>", lambda kind: kinds[kind[1]], path), address)]
    return fits[0]


async def test_no_form_of_another_origin_or_session_is_taken(rig: Rig, her: Person, ben: Visitor) -> None:
    ada, token, his = her.visitor, await her.visitor.csrf(), await ben.csrf()
    forged: list[tuple[str, dict[str, str], dict[str, str]]] = [
        ("no token", {}, {}),
        ("a wrong token", {"csrf": "x" * len(token)}, {}),
        ("another session's token", {"csrf": his}, {}),
        ("from elsewhere", {"csrf": token}, {"Origin": "https://evil.example"}),
        ("from another port", {"csrf": token}, {"Origin": "http://127.0.0.1:1"}),
        ("from nowhere", {"csrf": token}, {"Origin": "null"}),
        ("from what is no origin", {"csrf": token}, {"Origin": "http://["}),
        ("across sites", {"csrf": token}, {"Sec-Fetch-Site": "cross-site"}),
        ("from a neighbour", {"csrf": token}, {"Sec-Fetch-Site": "same-site"}),
    ]
    walked = 0
    before = contents(rig, her.account_id)
    for endpoint in forms():
        fields = her.fields(endpoint)
        for what, more, headers in forged:
            page = await ada.post(her.fill(endpoint), fields | more, follow=False, headers=headers)
            assert page.status == 403, (endpoint.path, what, page.status)
            assert not any(cookie.startswith("session=") for cookie in page.set_cookies), (endpoint.path, what)
            walked += 1
        assert contents(rig, her.account_id) == before, endpoint.path
    assert walked > 60
    # The same form with what belongs to it is taken, from our own origin.
    page = await ada.post("/account/name", {"name": "Ada", "csrf": token}, headers={"Origin": rig.url}, follow=False)
    assert page.status == 303
    assert contents(rig, her.account_id) != before


async def test_a_form_sent_when_signed_out_changes_nothing(rig: Rig, her: Person, stranger: Visitor) -> None:
    before = contents(rig, her.account_id)
    for endpoint in forms():
        page = await stranger.post(her.fill(endpoint), her.fields(endpoint), follow=False)
        assert page.status == 403 or page.headers["location"].startswith("/signin?next="), endpoint.path
        assert contents(rig, her.account_id) == before, endpoint.path


async def test_looking_changes_nothing(rig: Rig, her: Person) -> None:
    walked = 0
    before = contents(rig, her.account_id)
    for endpoint in endpoints():
        if endpoint.method not in ("GET", "HEAD") or endpoint.path in MACHINES:
            continue
        page = await her.visitor._ask(endpoint.method, her.fill(endpoint), None, False, None)
        assert page.status < 400, (endpoint, page.text[:300])
        assert endpoint.method == "GET" or page.text == "", endpoint
        assert contents(rig, her.account_id) == before, endpoint
        walked += 1
    assert walked >= 20


async def test_ids_of_others_are_as_if_they_were_not_there(rig: Rig, her: Person, him: Person) -> None:
    """By any address and any field; and no page of hers has a word of his."""
    ada, token, walked = her.visitor, await her.visitor.csrf(), 0
    nothing: dict[str, list[Any]] = {
        "int": [2**40, 0, 2**63, 2**70],
        "str": [new_request_id(now_us()), "nothing", "%00", "%ff", "'"],
    }
    before = contents(rig, her.account_id, him.account_id)

    async def look(endpoint: Endpoint, id: Any, field: str | None = None) -> tuple[int, str]:
        path = endpoint.path if field else endpoint.at(**dict.fromkeys((n for n, _ in endpoint.parameters), id))
        fields = her.fields(endpoint) | ({field: id} if field else {})
        if endpoint.method == "POST":
            page = await ada.post(path, fields | {"csrf": token}, follow=False)
        else:
            page = await ada.get(path + (f"?{field}={id}" if field else ""), follow=False)
        text = page.text.partition("<main")[2] or page.text
        # What is new each time.
        return page.status, re.sub(r'name="once" value="[^"]*"', "", text)

    for endpoint in [*gets(), *forms()]:
        if not endpoint.parameters or endpoint.path.startswith("/reset/"):
            continue
        kind = endpoint.parameters[0][1]
        nobodys = nothing[kind][0]
        missing = await look(endpoint, nobodys)
        assert missing[0] in (404, 422), (endpoint, missing)
        for id in [*nothing[kind][1:], *him.of_kind(kind)]:
            # Her own ids of another kind may be the same numbers as his.
            if id not in her.of_kind(kind):
                found = await look(endpoint, id)
                is_same = found[0] == missing[0] and _alike(found[1], missing[1], id, nobodys)
                assert is_same or (found[0] == 404 and id not in him.of_kind(kind)), (endpoint, id, found)
                walked += 1
    for endpoint in [*gets(), *forms()]:
        for field, name in ID_FIELDS.get(endpoint.path, {}).items():
            missing = await look(endpoint, 2**40, field)
            for id in him.ids[name]:
                found = await look(endpoint, id, field)
                assert found[0] == missing[0], (endpoint, field)
                assert _alike(found[1], missing[1], id, 2**40), (endpoint, field)
                walked += 1
    assert contents(rig, her.account_id, him.account_id) == before
    assert walked > 8
    words = [him.visitor.email, f"canary of {him.account_id}", *map(str, him.ids["request_id"])]
    for endpoint in gets():
        if not endpoint.parameters and endpoint.path not in MACHINES:
            page = await ada.get(endpoint.path)
            assert not any(word in page.text for word in words), endpoint
    for path in ("/usage", "/usage.csv", "/billing"):
        # A place in his list is none in hers.
        page = await ada.get(f"{path}?before={him.ids['request_id'][0]}&after={him.ids['request_id'][0]}")
        assert not any(word in page.text for word in words[:2]), path


def _alike(one: str, other: str, *ids: Any) -> bool:
    """Whether the pages are the same but for these ids, which may be small numbers that stand there for something else."""
    either = re.compile(rf"(?<![\w.-])(?:{'|'.join(re.escape(str(id)) for id in ids)})(?![\w-])")
    return either.sub("ID", one) == either.sub("ID", other)


async def test_every_page_is_closed_to_scripts_frames_and_caches(rig: Rig, her: Person, stranger: Visitor) -> None:
    walked = 0
    for visitor in (her.visitor, stranger):
        for endpoint in gets():
            if endpoint.path in MACHINES:
                continue
            page = await visitor.get(her.fill(endpoint), follow=False)
            policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
            assert policy["frame-ancestors"] == "'none'", endpoint
            assert "unsafe" not in policy.get("script-src", policy["default-src"]), endpoint
            assert page.headers["x-content-type-options"] == "nosniff", endpoint
            assert not [name for name in page.headers if name.startswith("access-control-")], endpoint
            if endpoint.path not in OWN_POLICY:
                assert "unsafe" not in page.headers["content-security-policy"], endpoint
                assert (policy["default-src"], policy["base-uri"]) == ("'none'", "'none'"), endpoint
                assert page.headers["cache-control"] == "no-store", endpoint
                assert page.headers["referrer-policy"] in ("same-origin", "strict-origin"), endpoint
                assert not re.search(r"<script(?! src=\"/static/)|\sstyle=|\son[a-z]+=\"", page.text), endpoint
                walked += 1
    assert walked > 10


async def test_no_other_site_may_read_a_page(rig: Rig, her: Person) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for endpoint in [*gets(), *forms()]:
        if endpoint.path in MACHINES:
            continue
        asked = await her.visitor._ask("OPTIONS", her.fill(endpoint), None, False, headers)
        assert asked.status == 405, endpoint
        assert not [name for name in asked.headers if name.startswith("access-control-")], endpoint


async def test_a_body_that_is_no_form_of_ours_is_refused_whole(rig: Rig, her: Person) -> None:
    """However it is announced; and it is read by a page, so the answer is one."""
    before = contents(rig, her.account_id)

    cookies = "; ".join(f"{name}={value}" for name, value in her.visitor.cookies.items())
    for endpoint in forms():
        # Raw, and as little as tells: who is still sending when the connection is closed may never read the answer.
        head = f"POST {her.fill(endpoint)} HTTP/1.1\r\nHost: {rig.url[7:]}\r\nCookie: {cookies}\r\nContent-Type: {FORM}\r\n"
        for rest in (b"Content-Length: 300000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n50000\r\n"):
            answer = (await talk(rig.url, head.encode() + rest)).decode()
            assert (answer[9:12], "This is too much" in answer) == ("413", True), (endpoint, answer[:200])
    token = await her.visitor.csrf()
    odd = f'--x\r\nContent-Disposition: form-data; name="csrf"\r\n\r\n{token}\r\n--x--\r\n'.encode()
    for kind, body in (
        ("multipart/form-data; boundary=x", odd),
        ("application/json", b"{}"),
        ("", b"csrf=" + token.encode()),
    ):
        page = await her.visitor._ask("POST", "/account/name", body, False, {"Content-Type": kind})
        assert page.status == 403, kind
    assert contents(rig, her.account_id) == before


@pytest.mark.parametrize("address", ["/signin", "/signup", "/reset/never-made"])
async def test_a_stranger_may_send_what_a_door_needs_and_no_more(rig: Rig, stranger: Visitor, address: str) -> None:
    """Reading a form takes the process from everybody else, and whoever has not signed in pays for nothing."""
    form = form_of((await stranger.get("/signin")).text, "/signin")
    longest = form | {
        "email": f"{'a' * 242}@example.com",
        "password": "\N{HOT BEVERAGE}\N{VARIATION SELECTOR-16}" * 500,
    }
    assert (await stranger.post(address, longest)).status in (404, 422)
    head = f"POST {address} HTTP/1.1\r\nHost: {rig.url[7:]}\r\nContent-Type: {FORM}\r\nContent-Length: 20000\r\n\r\n"
    answer = (await talk(rig.url, head.encode())).decode()
    assert (answer[9:12], "16 KiB" in answer) == ("413", True)


async def test_behind_the_door_a_stranger_may_send_no_more(rig: Rig, her: Person) -> None:
    """What was typed is kept for whoever signs in again, so it is read before anybody has."""
    for endpoint in forms():
        head = f"POST {her.fill(endpoint)} HTTP/1.1\r\nHost: {rig.url[7:]}\r\nContent-Type: {FORM}\r\n"
        answer = (await talk(rig.url, f"{head}Content-Length: 20000\r\n\r\n".encode())).decode()
        assert (answer[9:12], "16 KiB" in answer) == ("413", True), endpoint


async def test_a_form_of_more_fields_than_any_of_ours_is_not_read(her: Person) -> None:
    fields = {"csrf": await her.visitor.csrf(), "name": "Ada"} | {f"a{number}": "1" for number in range(5_000)}
    assert (await her.visitor.post("/account/name", fields)).status == 413


async def test_a_head_is_asked_for_without_the_rest(rig: Rig, her: Person) -> None:
    """Nothing of an export is read for it, and the connection goes on."""
    cookies = "; ".join(f"{name}={value}" for name, value in her.visitor.cookies.items())
    head = f"HEAD /usage.csv HTTP/1.1\r\nHost: {rig.url[7:]}\r\nCookie: {cookies}\r\n\r\n"
    rest = f"GET /healthz HTTP/1.1\r\nHost: {rig.url[7:]}\r\nConnection: close\r\n\r\n"
    answer = (await talk(rig.url, (head + rest).encode())).decode()
    first, _, second = answer.partition("\r\n\r\n")
    assert (first[9:12], second[9:12], "text/csv" in first) == ("200", "200", True)
    assert "attachment" in first


FORM = "application/x-www-form-urlencoded"


async def test_a_browser_that_asks_for_nothing_of_ours_gets_a_page_and_a_program_an_error(
    her: Person, stranger: Visitor
) -> None:
    people = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for visitor, leads_to in ((her.visitor, "/signout"), (stranger, "/signin")):
        page = await visitor.get("/nowhere", headers=people)
        assert (page.status, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert leads_to in page.text
        assert "content-security-policy" in page.headers
    for address, headers in (("/nowhere", {}), ("/v1/nowhere", people)):
        page = await stranger.get(address, headers=headers)
        assert (page.status, page.headers["content-type"]) == (404, "application/json")
