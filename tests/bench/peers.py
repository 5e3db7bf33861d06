"""The peers of `make bench-peers`: two gateways that the registries have, each configured to run well alone.

Each gets its own installation (`installs`), nothing of our environment, and one process, as our gateway has. What it
answers is looked at once before it is measured: an error page is quick to send.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.installs import node_modules, python_environment
from tests.bench.provider import TEXT
from tests.bench.servers import Server, ServerFailed, start_server
from tests.servers import free_port

READY_WITHIN_S = 180
MASTER_KEY = "sk-bench-master"
LITELLM_VERSION = "1.108.7"
PORTKEY_VERSION = "1.15.2"
NODE_SERVER_VERSION = "1.13.8"
"""What Portkey's gateway stands on. With the versions that npm chooses today (from 1.14.2 on) it answers every stream
with an error 500, `TypeError: immutable`; its own repository has that as issue 1389."""
LITELLM_CONFIG = """
model_list:
  - model_name: instant
    litellm_params:
      model: openai/instant
      api_base: http://127.0.0.1:{provider_port}/v1
      api_key: provider-key
{limits}
litellm_settings:
  telemetry: false
  set_verbose: false
general_settings:
  master_key: {master_key}
"""


LITELLM_LIMITS = """\
      rpm: 100000000
      tpm: 100000000000
router_settings:
  routing_strategy: usage-based-routing-v2
  enable_pre_call_checks: true
  redis_url: {redis_url}"""


@dataclass(frozen=True)
class Peer:
    """`target` is how many times our processor time a request its own should be, by the project's goals."""

    name: str
    title: str
    configured: str
    target: float
    start: Callable[[Path, Server, str | None], Server]
    """In a folder, before a provider, and with a Redis to count limits in, where ours has one."""


def start_litellm(folder: Path, provider: Server, redis_url: str | None) -> Server:
    programs = python_environment("litellm", f"litellm[proxy]=={LITELLM_VERSION}")
    home = folder / "litellm"
    home.mkdir()
    config = home / "config.yaml"
    limits = LITELLM_LIMITS.format(redis_url=redis_url) if redis_url else ""
    config.write_text(LITELLM_CONFIG.format(provider_port=provider.port, master_key=MASTER_KEY, limits=limits))
    port = free_port()
    options = ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    server = start_server(
        "LiteLLM",
        [str(programs / "litellm"), "--config", str(config), *options],
        port=port,
        folder=folder,
        environment=bare_environment(home)
        | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"},
        senders={"instant": [(MASTER_KEY, "instant")]},
        ready_path="/health/readiness",
        ready_within_s=READY_WITHIN_S,
    )
    return checked(server)


def start_portkey(folder: Path, provider: Server, _redis_url: str | None) -> Server:
    package, node_server = "@portkey-ai/gateway", "@hono/node-server"
    modules = node_modules("portkey", package, PORTKEY_VERSION, {node_server: NODE_SERVER_VERSION})
    home = folder / "portkey"
    home.mkdir()
    port = free_port()
    server = start_server(
        "Portkey",
        ["node", str(modules / package / "build" / "start-server.js"), f"--port={port}", "--headless"],
        port=port,
        folder=folder,
        environment=bare_environment(home) | {"NODE_ENV": "production"},
        senders={"instant": [("provider-key", "instant")]},
        headers={
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{provider.port}/v1",
        },
        ready_path="/",
        ready_within_s=READY_WITHIN_S,
    )
    return checked(server)


PEERS = [
    Peer(
        "LiteLLM",
        f"LiteLLM's proxy, litellm[proxy] {LITELLM_VERSION} (PyPI)",
        "one worker; one model (openai/…, api_base); a master key, which it checks; where ours counts limits in Redis, so does "
        "it (rpm and tpm of the model, usage-based-routing-v2); no database, so no virtual keys, budgets "
        "or spend; no callbacks; telemetry off, its local cost map, LITELLM_LOG=ERROR, LITELLM_MODE=PRODUCTION",
        50,
        start_litellm,
    ),
    Peer(
        "Portkey",
        f"Portkey's gateway, @portkey-ai/gateway {PORTKEY_VERSION} (npm) on @hono/node-server {NODE_SERVER_VERSION}",
        "one process, --headless, NODE_ENV=production; x-portkey-provider: openai, x-portkey-custom-host: the provider; it "
        "knows no keys of its own and passes the provider's on; no cache, hooks, retries or guardrails",
        3,
        start_portkey,
    ),
]


def bare_environment(home: Path) -> dict[str, str]:
    """Nothing of this machine's person: a peer would take a key or a database from the environment."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}


def checked(server: Server) -> Server:
    """The server, once it has answered as the provider does; it is stopped otherwise."""
    [(key, model)] = server.senders["instant"]
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 256}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **server.headers}
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    try:
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = answer.read()
        right = json.loads(said)["choices"][0]["message"]["content"] == TEXT
    except urllib.error.HTTPError as error:
        said, right = error.read(), False
    except (OSError, ValueError, LookupError) as error:
        said, right = repr(error).encode(), False
    if not right:
        server.stop()
        raise ServerFailed(f"{server.name} does not answer as the provider does: {said[:500]!r}")
    return server
