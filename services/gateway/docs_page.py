"""The API for people: one page made from the OpenAPI document.

It has no scripts and loads nothing, so that it works where the internet is out of reach. Pure.
"""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

Object = Mapping[str, Any]

# An upper limit that only keeps a number in its 32 bits.
UNBOUNDED = 2**31 - 1

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
h2 { margin-top: 2.5rem; text-transform: capitalize; } h3 { margin: 0; font-size: 1rem; }
section { border: 1px solid #d0d7de; border-radius: 6px; padding: .8rem 1rem; margin: .8rem 0; }
.method { display: inline-block; min-width: 4rem; font-weight: bold; color: #0550ae; }
code { font: 13px ui-monospace, monospace; } p { margin: .4rem 0; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0; } caption { text-align: left; font-weight: 600; }
td { border-top: 1px solid #eaeef2; padding: .2rem .6rem .2rem 0; vertical-align: top; }
td:first-child { width: 14rem; }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3; } .method { color: #79c0ff; } }
"""


def docs_page(document: Object) -> str:
    return "".join(_page(document))


def _page(document: Object) -> Iterator[str]:
    info = document["info"]
    schemas = document["components"]["schemas"]
    yield f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
    yield f"<style>{_STYLE}</style><h1>{escape(info['title'])} API {escape(info['version'])}</h1>"
    yield f'<p>{_text(info["description"])}</p><p>For programs: <a href="/api/v1/openapi.json">OpenAPI</a></p>'
    by_tag: dict[str, list[tuple[str, str, Object]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append((method, path, operation))
    for tag, routes in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>"
        for method, path, operation in routes:
            yield from _operation(method, path, operation, schemas)


def _operation(method: str, path: str, operation: Object, schemas: Object) -> Iterator[str]:
    yield f'<section><h3><span class="method">{method.upper()}</span> <code>{escape(path)}</code></h3>'
    yield f"<p>{_text(operation['description'])}</p>"
    parameters = {f"{one['name']} ({one['in']})": one for one in operation.get("parameters", [])}
    yield from _table(
        "Parameters", {name: _words(one["schema"], schemas) + _note(one) for name, one in parameters.items()}
    )
    if "requestBody" in operation:
        yield from _fields("Body", _resolved(_json_schema(operation["requestBody"]), schemas), schemas)
    for status, answer in sorted(operation["responses"].items()):
        if status < "300" and (data := _data_schema(_json_schema(answer), schemas)):
            yield from _fields("Data", data, schemas)
    answers = sorted(operation["responses"].items())
    yield from _table("Answers", {status: _text(answer["description"]) for status, answer in answers})
    yield "</section>"


def _fields(caption: str, schema: Object, schemas: Object) -> Iterator[str]:
    fields = schema.get("properties", {})
    yield from _table(caption, {name: _words(field, schemas) + _note(field) for name, field in fields.items()})


def _table(caption: str, rows: Mapping[str, str]) -> Iterator[str]:
    if rows:
        lines = "".join(f"<tr><td><code>{escape(name)}</code><td>{text}" for name, text in rows.items())
        yield f"<table><caption>{caption}</caption>{lines}</table>"


def _json_schema(message: Object) -> Object:
    schema: Object = message.get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _data_schema(envelope: Object, schemas: Object) -> Object:
    """Of the thing in the envelope, or of each of them where it is a list."""
    data = _resolved(_resolved(envelope, schemas).get("properties", {}).get("data", {}), schemas)
    return _resolved(data["items"], schemas) if "items" in data else data


def _resolved(schema: Object, schemas: Object) -> Object:
    """The schema behind a reference, or behind the one of its alternatives that is not null."""
    for alternative in schema.get("anyOf", []):
        if alternative.get("type") not in (None, "null") or "$ref" in alternative:
            return _resolved(alternative, schemas)
    if "$ref" in schema:
        found: Object = schemas[schema["$ref"].rpartition("/")[2]]
        return found
    return schema


def _words(schema: Object, schemas: Object) -> str:
    """Type, bounds and default in a few words."""
    resolved = _resolved(schema, schemas)
    words = [escape(str(resolved.get("type", "")))]
    if "enum" in resolved:
        words = [" | ".join(escape(str(value)) for value in resolved["enum"])]
    low, high = resolved.get("minimum"), resolved.get("maximum")
    if low is not None or high is not None:
        words.append(f"{'' if low is None else f'{low:g}'}…{'' if high is None or high >= UNBOUNDED else f'{high:g}'}")
    if schema.get("default") not in (None, []):
        words.append(f"= {escape(str(schema['default']))}")
    return " ".join(words)


def _note(described: Object) -> str:
    note = described.get("description")
    return f" — {_text(note)}" if note else ""


def _text(markdown: str) -> str:
    """Escaped, with `code` as code."""
    parts = escape(markdown).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
