"""What a client says it takes: its Accept header, read as RFC 9110 has it."""

from fastapi import Request

JSON = "application/json"


def prefers(request: Request, media: str) -> bool:
    """Whether a client names a media type, and wants it no less than JSON, which is answered to all others."""
    wanted = _quality(request)
    return media in wanted and wanted[media] > 0 and wanted[media] >= wanted.get(JSON, 0.0)


def _quality(request: Request) -> dict[str, float]:
    """How much each media type is wanted, from 0 to 1."""
    found = {}
    for one in ",".join(request.headers.getlist("accept")).lower().split(","):
        name, *parameters = (part.strip() for part in one.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        found[name] = float(weight) if weight.replace(".", "", 1).isdecimal() else 0.0
    return found
