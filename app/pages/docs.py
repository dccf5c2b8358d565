"""The API's description for people: to try out at /docs, to read at /redoc; nothing is loaded from elsewhere."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request, Response

from app.rendering import page
from app.security_headers import POLICY

ASSETS = Path(str(files("fastapi_offline"))) / "static"  # Swagger UI (Apache 2.0) and Redoc (MIT), as published
# The two styles that Redoc writes into its page, by their digests: one is empty at first, one is its scroll bar's.
_STYLES = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' 'sha256-QMIg+bpjm3JdElJ388KYke01izlUW0UoNOeKjpMxdgc='"
_WITH_STYLES = POLICY.replace("style-src 'self'", f"style-src 'self' {_STYLES}")
router = APIRouter()


@router.get("/docs")
def docs(request: Request) -> Response:
    """Swagger UI."""
    return page(request, "docs.html")


@router.get("/redoc")
def redoc(request: Request) -> Response:
    """Redoc."""
    answer = page(request, "redoc.html")
    answer.headers["Content-Security-Policy"] = _WITH_STYLES
    return answer
