"""Cookies, sessions and tries: what a thief of a cookie, a guesser of passwords and a neighbouring site do not get."""

from __future__ import annotations

import asyncio
import re
import statistics

import psutil
import pytest

from models.ids import DAY_US, now_us
from models.sessions import IDLE_US, LONGEST_US, hash_token
from tests.dashboard.visitor import PASSWORD, Visitor, form_of, visiting
from tests.rig import Rig
from tests.stores import Sql

ELSEWHERE = {"Host": "dash.example.com"}


def cookie(headers: tuple[str, ...], name: str) -> tuple[str, set[str]]:
    """Value and attributes of the cookie that an answer sets."""
    [line] = [line for line in headers if line.startswith(f"{name}=")]
    first, *attributes = line.split("; ")
    return first.removeprefix(f"{name}="), {part.lower() for part in attributes}


async def signed_in(visitor: Visitor, token: str) -> bool:
    """Whether somebody with this cookie, and nothing else, is let in."""
    async with visiting(visitor.rig) as thief:
        page = await thief.get("/account", follow=False, headers={"Cookie": f"session={token}"})
        return page.status == 200


# ── cookies ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_cookie_is_for_this_site_and_no_script(rig: Rig, stranger: Visitor) -> None:
    page = await stranger.send("/signup", email=stranger.email, password=PASSWORD, follow=False)
    token, attributes = cookie(page.set_cookies, "session")
    assert attributes >= {"path=/", "httponly", "samesite=lax"}
    assert "secure" not in attributes  # over plain http on this machine no cookie that is would come back
    [(stored,)] = rig.sql(
        'SELECT token_hash FROM session s JOIN "user" u ON u.id = s.user_id WHERE u.email = ?', stranger.email
    )
    assert (stored, stored != token) == (hash_token(token), True)


@pytest.mark.parametrize(
    "headers", [ELSEWHERE, {"X-Forwarded-Proto": "https"}, {"X-Forwarded-Host": "dash.example.com"}], ids=str
)
async def test_wherever_a_network_is_between_it_travels_over_https_alone(
    stranger: Visitor, headers: dict[str, str]
) -> None:
    form = await stranger.get("/signup", headers=headers)
    visitor, attributes = cookie(form.set_cookies, "__Host-visitor")
    assert attributes >= {"secure", "path=/", "httponly"}
    assert not [part for part in attributes if part.startswith("domain")]
    fields = form_of(form.text, "/signup") | {"email": stranger.email, "password": PASSWORD}
    sent = headers | {"Cookie": f"__Host-visitor={visitor}"}
    page = await stranger.post("/signup", fields, headers=sent, follow=False)
    token, attributes = cookie(page.set_cookies, "__Host-session")
    assert attributes >= {"secure", "path=/", "httponly", "samesite=lax"}
    for name, is_let_in in (("__Host-session", True), ("session", False), ("__Secure-__Host-session", False)):
        async with visiting(stranger.rig) as other:
            page = await other.get("/account", follow=False, headers=headers | {"Cookie": f"{name}={token}"})
            assert (page.status == 200) is is_let_in, name


async def test_what_an_untrusted_peer_says_of_itself_is_not_believed(rig: Rig) -> None:
    async with visiting(rig, peer="127.0.0.2") as visitor:
        page = await visitor.get("/signin", headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"})
        cookie(page.set_cookies, "visitor")
        await visitor.sign_up()
        text = (await visitor.get("/account")).text
        assert "127.0.0.2" in text
        assert visitor.address not in text


async def test_behind_trusted_proxies_the_nearest_other_address_counts(rig: Rig, stranger: Visitor) -> None:
    chain = {"X-Forwarded-For": "198.51.100.1, nonsense, ::ffff:203.0.113.77, 127.0.0.1"}
    form = form_of((await stranger.get("/signup")).text, "/signup")
    await stranger.post("/signup", form | {"email": stranger.email, "password": PASSWORD}, headers=chain)
    text = (await stranger.get("/account")).text
    assert "203.0.113.77" in text
    assert "198.51.100.1" not in text


@pytest.mark.parametrize(
    "sent", ["session=\xff\xfe", "session=" + "x" * 4000, "session=; session=a", "=;;,\x22", "session"]
)
async def test_odd_cookies_are_no_session(stranger: Visitor, sent: str) -> None:
    page = await stranger._ask("GET", "/account", None, False, {"Cookie": sent})
    assert (page.status, page.headers["location"]) == (303, "/signin?next=/account")


@pytest.mark.parametrize(
    "headers", [{"Host": "["}, {"Host": ""}, {"Referer": "http://["}, {"User-Agent": "\udcff"}], ids=str
)
async def test_odd_headers_are_answered(stranger: Visitor, headers: dict[str, str]) -> None:
    assert (await stranger.get("/signin", headers=headers)).status == 200
    page = await stranger.post("/signout", {}, headers=headers, follow=False)
    assert (page.status, page.headers["location"]) == (303, "/signin?next=/")


# ── sessions ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_cookie_planted_before_signing_in_is_worthless_after(ada: Visitor, stranger: Visitor) -> None:
    planted = "a" * 43
    sent = {"Cookie": f"session={planted}"}
    form = form_of((await stranger.get("/signin", headers=sent)).text, "/signin")
    page = await stranger.post("/signin", form | {"email": ada.email, "password": PASSWORD}, headers=sent, follow=False)
    token, _ = cookie(page.set_cookies, "session")
    assert token != planted
    assert not await signed_in(ada, planted)
    assert await signed_in(ada, token)


async def test_signing_in_again_ends_the_session_before(ada: Visitor) -> None:
    before = ada.cookies["session"]
    token = await ada.csrf()
    await ada.post("/signin", {"csrf": token, "email": ada.email, "password": PASSWORD})
    assert ada.cookies["session"] != before
    assert not await signed_in(ada, before)


async def test_after_signing_out_the_old_cookie_is_dead(ada: Visitor) -> None:
    token = ada.cookies["session"]
    assert await signed_in(ada, token)
    page = await ada.send("/", "/signout", follow=False)
    assert cookie(page.set_cookies, "session")[0] in ("", '""')
    assert not await signed_in(ada, token)


@pytest.mark.parametrize(
    ("column", "ago_us"), [("seen_us", IDLE_US + DAY_US), ("expires_us", DAY_US)], ids=["idle", "absolute"]
)
async def test_a_session_expires(rig: Rig, ada: Visitor, column: str, ago_us: int) -> None:
    token = ada.cookies["session"]
    assert await signed_in(ada, token)
    assert LONGEST_US > IDLE_US
    with Sql(rig.database_url) as sql:
        sql.rows(f"UPDATE session SET {column} = ? WHERE token_hash = ?", now_us() - ago_us, hash_token(token))
    assert not await signed_in(ada, token)
    page = await ada.get("/account")
    assert page.path == "/signin?next=/account"


# ── where links lead ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wanted", "led_to"),
    [
        ("/usage?key=1&model=é", "/usage?key=1&model=%C3%A9"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/usage\\..\\..\\evil", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/x\r\nSet-Cookie: planted=1", "/"),
        ("/x\u2028y", "/"),
        ("", "/"),
    ],
)
async def test_after_signing_in_one_stays_here(ada: Visitor, stranger: Visitor, wanted: str, led_to: str) -> None:
    form = form_of((await stranger.get("/signin")).text, "/signin")
    fields = form | {"email": ada.email, "password": PASSWORD, "next": wanted}
    page = await stranger.post("/signin", fields, follow=False)
    assert (page.status, page.headers["location"]) == (303, led_to)
    assert not any("planted" in line for line in page.set_cookies)


# ── tries ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_ten_wrong_passwords_and_the_right_one_has_to_wait(rig: Rig, ada: Visitor, ben: Visitor) -> None:
    """From wherever they come, and through whatever form; but a browser that signed in before has ten tries of its own."""
    await ada.send("/", "/signout")
    device = ada.cookies["device"]
    statuses = []
    async with visiting(rig) as guesser, visiting(rig) as thief:
        form = form_of((await guesser.get("/signin")).text, "/signin") | {"email": ada.email}

        async def knows(device: str) -> int:
            """What the right password is answered in a browser with this cookie."""
            headers = {"Cookie": f"{_visitor(guesser)}; device={device}"}
            return (await guesser.post("/signin", form | {"password": PASSWORD}, headers=headers)).status

        # Another's cookie, or one with another name in it, makes nobody less of a stranger.
        for number, odd in enumerate((ben.cookies["device"], "x" + device, device[:-1], "é.é", ".", *[""] * 5)):
            headers = {"X-Forwarded-For": f"198.51.100.{number}", "Cookie": f"{_visitor(guesser)}; device={odd}"}
            statuses.append((await guesser.post("/signin", form | {"password": "wrong"}, headers=headers)).status)
        page = await guesser.sign_in(ada.email)
        assert (statuses, page.status) == ([422] * 10, 429)
        assert "Too many tries" in page.text
        assert (await guesser.send("/signup", email=ada.email.upper(), password=PASSWORD)).status == 429

        # Nor does one from before the password was changed.
        await ada.send(rig.desk.accounts.reset_link(ada.email), password=PASSWORD)
        before, device = device, ada.cookies["device"]
        assert await knows(before) == 429

        for _ in range(2):
            await ada.send("/", "/signout")
            statuses = [(await ada.sign_in(ada.email, "wrong")).status for _ in range(9)]
            assert (statuses, (await ada.sign_in(ada.email.upper())).path) == ([422] * 9, "/")
            assert await knows(device) == 429
        # Signing in again brings a new cookie, but not for ever new tries.
        assert await knows(ada.cookies["device"]) == 429
        # Who has the cookie of her session alone is a stranger to the password.
        stolen = {"Cookie": f"session={ada.cookies['session']}"}
        for page_at, path in (("/account", "/account/password"), ("/account/delete", "/account/delete")):
            fields = form_of((await ada.get(page_at)).text, path) | {"present": PASSWORD, "password": PASSWORD}
            assert (await thief.post(path, fields, headers=stolen)).status == 429
    assert ada.email not in device


def _visitor(visitor: Visitor) -> str:
    return f"visitor={visitor.cookies['visitor']}"


async def test_tries_are_counted_by_the_address_that_a_proxy_saw(rig: Rig) -> None:
    """Whatever a client writes before it, and whatever it writes to us directly; the whole network of an IPv6 address."""

    async def tries(peer: str, said: str) -> int:
        """How many sign-ups with a bad form are looked at before it is too many."""
        async with visiting(rig, peer=peer) as visitor:
            form = form_of((await visitor.get("/signup")).text, "/signup") | {"email": "x", "password": "y"}
            for number in range(21):
                page = await visitor.post("/signup", form, headers={"X-Forwarded-For": said.format(number)})
                if page.status == 429:
                    return number
            return 21

    assert await tries("127.0.0.1", "198.51.100.{}, 203.0.113.201") == 20
    assert await tries("127.0.0.1", "203.0.113.201") == 0
    assert await tries("127.0.0.1", "203.0.113.202") == 20
    assert await tries("127.0.0.3", "198.51.100.{}") == 20
    assert await tries("127.0.0.3", "203.0.113.203") == 0
    assert await tries("127.0.0.1", "2001:db8:7:7::{}") == 20
    assert await tries("127.0.0.1", "2001:db8:7:8::1") == 20


async def test_an_unknown_address_costs_as_much_work_as_a_known_one(rig: Rig, ada: Visitor) -> None:
    """Counted in the server's own processor time, so nobody can tell from outside who is a customer."""

    def used_s() -> float:
        times = [psutil.Process(pid).cpu_times() for pid in rig.workers.pids]
        return sum(one.user + one.system for one in times)

    async def cost_s(email: str) -> float:
        async with visiting(rig) as guesser:
            form = form_of((await guesser.get("/signin")).text, "/signin")
            before = used_s()
            page = await guesser.post("/signin", form | {"email": email, "password": "wrong password"})
            assert page.status == 422
            return used_s() - before

    async with visiting(rig) as unknown:
        await cost_s(unknown.email)
        pairs = [(await cost_s(ada.email), await cost_s(unknown.email)) for _ in range(3)]
    known_s, unknown_s = (statistics.median(costs) for costs in zip(*pairs, strict=True))
    assert known_s > 0.03
    assert 0.5 < unknown_s / known_s < 2


async def test_a_crowd_that_signs_in_waits_in_line(rig: Rig) -> None:
    """Each hashing takes 64 MiB; many at once would take the machine from the requests that are paid for."""

    def memory() -> int:
        return max(psutil.Process(pid).memory_info().rss for pid in rig.workers.pids)

    async def knock(number: int) -> int:
        async with visiting(rig) as guesser:
            guesser.address = f"198.18.0.{number}"
            return (await guesser.sign_in(f"nobody-{number}@example.com")).status

    await knock(100)
    before, most = memory(), 0
    crowd = asyncio.gather(*(knock(number) for number in range(10)))
    while not crowd.done():
        most = max(most, memory())
        await asyncio.sleep(0.002)
    assert set(await crowd) == {422}
    assert most - before < 64 * 2**20 * (2 * len(rig.workers.pids) + 1)


async def test_a_password_is_stored_by_argon2_alone(rig: Rig, ada: Visitor) -> None:
    [(stored,)] = rig.sql('SELECT password_hash FROM "user" WHERE email = ?', ada.email)
    assert re.fullmatch(r"\$argon2id\$v=19\$m=65536,t=3,p=4\$[\w+/]{22}\$[\w+/]{43}", stored)
