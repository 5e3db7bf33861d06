"""Owns which aliases a key may call: reading, checking and replacing them within an open write of `keys.py`."""

from __future__ import annotations

from collections.abc import Iterable

from models.changes import KEY, OperatorWrite
from models.errors import BadInput, NotFound
from models.records import CatalogModel, KeyModel


async def aliases_of(key_id: int) -> list[str]:
    """What the key may call, by name."""
    rows = await KeyModel.filter(api_key_id=key_id).order_by("model__alias").values_list("model__alias", flat=True)
    return [str(alias) for alias in rows]


async def put_aliases(write: OperatorWrite, key_id: int, aliases: list[str], *, reason: str = "") -> None:
    """Let the key call these and nothing else. Raises NotFound for one that does not exist."""
    before = await aliases_of(key_id)
    ids = await model_ids(aliases)
    if sorted(before) == sorted(aliases):
        return
    await KeyModel.filter(api_key_id=key_id).delete()
    await KeyModel.bulk_create([KeyModel(api_key_id=key_id, model_id=id_) for id_ in ids])
    await write.changed(KEY, key_id)
    await write.audit(
        "key.set_models", subject(key_id), reason=reason, before={"models": before}, after={"models": aliases}
    )


def subject(key_id: int) -> str:
    """How the audit log names a key."""
    return f"key {key_id}"


def clean_aliases(models: object) -> list[str]:
    """Each alias once. Raises BadInput for nothing, and for what is no list."""
    # A lone text would be read letter by letter, and "all" would quietly grow with the catalog.
    if models is None or isinstance(models, str | bytes) or not isinstance(models, Iterable):
        raise BadInput('models: list the aliases that the key may call, like ["small-chat"]', field="models")
    aliases = list(models)
    if not aliases:
        raise BadInput("models: is empty; a key may call one or several models, list them", field="models")
    for alias in aliases:
        if not isinstance(alias, str):
            raise BadInput(f"models: {alias!r} is not an alias", field="models")
    return list(dict.fromkeys(aliases))


async def model_ids(aliases: list[str]) -> list[int]:
    """Raises NotFound naming those that do not exist."""
    known = dict(await CatalogModel.filter(alias__in=aliases).values_list("alias", "id"))
    unknown = [alias for alias in aliases if alias not in known]
    if unknown:
        raise NotFound(f"models: there is no model {', '.join(map(repr, unknown))}; add it first", field="models")
    return [known[alias] for alias in aliases]
