"""Owns the documentation pages. (Placeholder until the OpenAPI page lands.)"""

from sanic import Blueprint


def blueprint(brand: str = "") -> Blueprint:
    return Blueprint("docs")
