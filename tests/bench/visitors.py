"""Visitors of the dashboard beside the load: a process that signs in and then opens page after page, so many a second.

`python -m tests.bench.visitors PORT EMAIL PAGES_PER_S` prints "ready" when it is signed in, begins at a line on its standard
input, and at its end says how many pages it saw.
"""

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator

import aiohttp

from tests.bench.servers import ROOT, Server

VISITOR = "bench-0@example.com"
PASSWORD = "a password of the benchmark"
PATHS = ("/", "/?part=live", "/usage", "/keys", "/models", "/billing")


@contextlib.contextmanager
def visitors(server: Server) -> Iterator[None]:
    """While the load runs, `server.pages_per_s` pages are opened each second. Fails when one of them was no page."""
    if not server.pages_per_s:
        yield
        return
    arguments = [str(server.port), VISITOR, str(server.pages_per_s)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.visitors", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise AssertionError("the dashboard's visitors could not sign in")
        process.stdin.write("begin\n")
        process.stdin.flush()
        yield
        process.stdin.close()
        if not int(process.stdout.readline() or 0):
            raise AssertionError("the dashboard's visitors saw no page")


async def browse(base: str, email: str, pages_per_s: float) -> None:
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(base, cookie_jar=jar) as session:
        async with session.get("/signin") as response:
            csrf = (await response.text()).partition('name="csrf" value="')[2].partition('"')[0]
        form = {"csrf": csrf, "next": "/", "email": email, "password": PASSWORD}
        async with session.post("/signin", data=form) as response:
            assert response.status == 200, await response.text()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        seen = 0
        for path in itertools.cycle(PATHS):
            headers = {"HX-Request": "true"} if "part=" in path else {}
            async with session.get(path, headers=headers) as response:
                assert response.status == 200, path
                await response.read()
            seen += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), 1 / pages_per_s)
            if ended.done():
                break
        print(seen, flush=True)


if __name__ == "__main__":
    asyncio.run(browse(f"http://127.0.0.1:{sys.argv[1]}", sys.argv[2], float(sys.argv[3])))
