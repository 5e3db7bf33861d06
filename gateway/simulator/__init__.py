"""The simulated provider: an OpenAI-compatible upstream for the demo and as the scripted provider of all tests.

It counts honestly, fails on request, and remembers every call. It knows nothing of the gateway that calls it.
Reading order: `options` (what a model's name can ask for), `asks`, `usage`, `answers`, `framing`, `exchange`, `server`.
"""

from gateway.simulator.answers import answer_words
from gateway.simulator.asks import Ask, Refusal, parse_ask
from gateway.simulator.options import Options, describe_options, parse_options
from gateway.simulator.server import RunningSimulator, create_simulator, run_simulator, serve_simulator
from gateway.simulator.usage import Counts, count_prompt_tokens, count_tokens, count_words, shape_usage

__all__ = [
    "Ask",
    "Counts",
    "Options",
    "Refusal",
    "RunningSimulator",
    "answer_words",
    "count_prompt_tokens",
    "count_tokens",
    "count_words",
    "create_simulator",
    "describe_options",
    "parse_ask",
    "parse_options",
    "run_simulator",
    "serve_simulator",
    "shape_usage",
]
