"""Owns the proxy for tests: nginx with the very configuration that is shipped, on ports of its own, before two servers."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp

from tests.rig import ROOT
from tests.servers import free_port, missing

CONFIGURATION = ROOT / "docker" / "nginx" / "gateway.conf"
_AROUND = """
daemon off;
{user}
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/answers;
    fastcgi_temp_path {folder}/other;
    uwsgi_temp_path {folder}/other;
    scgi_temp_path {folder}/other;
    include {folder}/gateway.conf;
}}
"""


class Front:
    """Its address, and sessions that take its self-made certificate."""

    def __init__(self, folder: Path, addresses: list[str]) -> None:
        program = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
        if program is None:
            missing("no nginx: install nginx-light")
        assert program is not None
        self.folder = folder
        self.plain_port, port = free_port(), free_port()
        self.url = f"https://127.0.0.1:{port}"
        folder.mkdir()
        # Started by root, its workers would be somebody who may not write here.
        user = "user root;" if os.geteuid() == 0 else ""
        text = CONFIGURATION.read_text()
        for place, address in enumerate(addresses, start=1):
            text = _replace(text, f"gateway-{place}:8000", address.removeprefix("http://"))
        text = _replace(text, "/var/log/nginx/access.log", f"{folder}/access.log")
        text = _replace(text, "listen 80;", f"listen 127.0.0.1:{self.plain_port};")
        text = _replace(text, "listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
        (folder / "gateway.conf").write_text(_replace(text, "/etc/nginx/tls/", f"{folder}/"))
        (folder / "nginx.conf").write_text(_AROUND.format(folder=folder, user=user))
        request = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout privkey.pem -out fullchain.pem"
        subprocess.run(request.split(), cwd=folder, check=True, capture_output=True)
        self._process = subprocess.Popen([program, "-p", folder, "-c", folder / "nginx.conf"])

    def wait(self, *, status: int) -> None:
        context = ssl._create_unverified_context()
        deadline = time.monotonic() + 20
        while True:
            try:
                with urllib.request.urlopen(self.url + "/readyz", context=context, timeout=5) as response:
                    got = response.status
            except urllib.error.HTTPError as error:
                got = error.code
            except OSError:
                got = None
            if got == status:
                return
            assert time.monotonic() < deadline, (self.folder / "error.log").read_text()
            time.sleep(0.05)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(limit=0, ssl=False)
        jar = aiohttp.CookieJar(unsafe=True)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(self.url, connector=connector, cookie_jar=jar, timeout=timeout) as session:
            yield session

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def _replace(text: str, what: str, by: str) -> str:
    assert what in text, f"{CONFIGURATION.name} no longer says {what}"
    return text.replace(what, by)


@contextlib.contextmanager
def start_front(folder: Path, addresses: list[str], *, status: int = 200) -> Iterator[Front]:
    """Before the servers at these addresses; `status`: what it says of whether it is ready."""
    front = Front(folder, addresses)
    try:
        front.wait(status=status)
        yield front
    finally:
        front.close()
