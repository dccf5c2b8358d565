"""How a page is made: the templates of `app/templates/`, what each of them knows, and numbers and times in words."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app import addresses, sessions
from lrtune import __version__
from lrtune.analysis import words

HERE = Path(__file__).parent
STATIC = HERE / "static"
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_LINKS = re.compile(r'\b(href|src|(?:form)?action|hx-get|hx-post|data-live|data-trials)="/')
THEMES = ("light", "dark")


def page(request: Request, template: str, *, status: int = 200, **known: Any) -> HTMLResponse:
    """A template as an answer."""
    root = addresses.root(request)
    theme = request.cookies.get("lrtune-theme")
    signed_in = hasattr(request.app.state, "key") and sessions.of(request) is not None
    everywhere = {
        "path": addresses.path(request),
        "root": root,
        "theme": theme if theme in THEMES else "",
        "signed_in": signed_in,
        "token": sessions.token(request) if signed_in else "",
        "visitor": getattr(request.state, "caller", None),
    }
    text = _below(root, _templates.get_template(template).render(everywhere | known))
    return HTMLResponse(text, status, headers={"Cache-Control": "private, no-cache", "Vary": "HX-Request"})


def _below(root: str, text: str) -> str:
    """A page whose links lead below a prefix: templates write our own. What users wrote is escaped, quotes and all."""
    return _LINKS.sub(lambda found: f"{found[0][:-1]}{root}/", text) if root else text


LONG = 1e12  # from here on a value that was measured takes a power of ten


def number(value: float | None, digits: int = 4) -> str:
    """A number as people write it."""
    if value is None:
        return "–"
    whole = isinstance(value, int) or 10**digits <= abs(value) < LONG
    return f"{value:,.0f}" if whole else f"{value:.{digits}g}"


def end(value: float, interval: tuple[float, float]) -> str:
    """An end of an interval, with as many digits as it takes to tell it from the other."""
    return number(value) if number(interval[0]) != number(interval[1]) else words.digits(value, interval)


def percent(share: float, digits: int = 0) -> str:
    """A share."""
    return f"{100 * share:.{digits}f} %"


def size(count: int) -> str:
    """Bytes as people write them: 12.3 MB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


def lasting(seconds: float) -> str:
    """A stretch of time in its two largest units: 3 h 20 min."""
    left, parts = max(0, round(seconds)), list[str]()
    for size, unit in UNITS:
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
    return " ".join(parts[:2]) or "0 s"


def since(moment: datetime | None) -> str:
    """How long ago a moment was."""
    if moment is None:
        return "–"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if seconds < 5:
        return "just now"
    count, unit, *_ = lasting(seconds).split(" ")
    return f"{count} {unit} ago"


def once(text: str, said: str) -> str:
    """A line of a log without its reason, where that was said above: `trial 2 failed: no such file` is a repetition."""
    head, colon, reason = text.partition(": ")
    return head if colon and said and reason.strip() and reason in said else text


def clock(moment: datetime | None) -> str:
    """A moment, to the second, in UTC."""
    return "" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@lru_cache
def asset(name: str) -> str:
    """The address of a static file, with its hash, so that a browser never keeps an old one."""
    return f"/static/{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]}"


def _shown(value: Any) -> str:
    """A default as it is typed into the form."""
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def ticked(text: str) -> Markup:
    """A sentence whose names in backticks are set as code; a backtick that is never closed stays."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = ["`".join(parts[-2:])]
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


def _same(values: Iterable[Any]) -> list[tuple[str, str]]:
    """Options that are called what they are; a pair has a sentence beside its name."""
    pairs = (one if isinstance(one, tuple) else (one, "") for one in values)
    return [(str(name), f"{name}: {words}" if words else str(name)) for name, words in pairs]


def _pretty(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def takes(schema: Mapping[str, Any]) -> str:
    """What a parameter takes, from its JSON Schema, in words."""
    if sides := schema.get("anyOf", schema.get("oneOf")):
        each = [takes(one) for one in sides]
        return (" or " if any('"' in one for one in each) else ", or ").join(each)
    if "$ref" in schema:
        return "an object"
    if "enum" in schema or "const" in schema:
        options = [str(one) for one in schema.get("enum", [schema.get("const")])]
        signs = not any(one.isalnum() for option in options for one in option)  # with commas between: "., ,"
        return " or ".join(f'"{one}"' for one in options) if signs else ", ".join(options)
    if schema.get("type") == "string" and schema.get("maxLength") == 1:
        return "one character"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"a list, each {takes(schema.get('items', {}))}"
    words = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    return " ".join([words.get(kind, str(kind)), *_bounds(schema)])


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    """The ends of a number."""
    kinds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return [f"{word} {schema[name]:,}" for name, word in kinds.items() if name in schema]


_templates = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals |= {"asset": asset, "version": __version__, "same": _same}
_templates.filters |= {
    "number": number,
    "percent": percent,
    "lasting": lasting,
    "since": since,
    "once": once,
    "size": size,
    "clock": clock,
    "pretty": _pretty,
    "takes": takes,
    "shown": _shown,
    "ticked": ticked,
    "capital": lambda text: text[:1].upper() + text[1:],
    "described": words.described,
    "details": words.details,
    "headline": words.headline,
    "rate": words.rate,
    "wins": words.wins,
    "no_interval": words.no_interval,
    "measured": words.measured,
    "end": end,
    "lift": words.lift,
    "label": words.label,
    "brief_lift": words.brief_lift,
}
