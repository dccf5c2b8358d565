"""Signing in with an OpenID Connect provider, by Authlib: what the settings say of it, and who came back from it.

The authorization code flow with PKCE, a state and a nonce. What has to be remembered while somebody is at the provider
stands in a cookie of its own, signed, for ten minutes. Nothing of the provider's is kept: a session rests on a key
(`people.session_key`) that nobody has in text, so that an admin sees it among the others and can revoke it.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter, ValidationError

from app.addresses import root
from app.settings import Settings
from lrtune.settings import end
from lrtune.wire.people import ADMIN, PersonName, Scope

RETURN = "/sign-in/openid/return"
AWAY = 600  # seconds that somebody may be at the provider
MISSING = "LRTUNE_OIDC_ISSUER is set, and signing in with it needs Authlib: pip install 'lrtune[app,openid]'"


class NotSignedIn(Exception):
    """The provider did not say who this is, or somebody whom this server cannot take."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who the provider says came, what they may do here, and where they wanted to go."""

    person: str
    scopes: tuple[Scope, ...]
    target: str


class Provider:
    """The OpenID Connect provider of the settings. Ends the process, in words, where Authlib is not installed."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        try:
            from authlib.integrations.starlette_client import OAuth
            from httpx2 import HTTPError
            from starlette.middleware.sessions import SessionMiddleware
        except ImportError:
            end(MISSING)
        issuer, secret = str(settings.oidc_issuer).rstrip("/"), settings.oidc_client_secret
        self._not_reached = HTTPError
        self.name = settings.oidc_name or urlsplit(issuer).hostname or issuer
        self._issuer, self._claim, self._admins = issuer, settings.oidc_claim, settings.oidc_admins or ()
        self._client = OAuth().register(
            "provider",
            client_id=settings.oidc_client_id,
            client_secret=secret.get_secret_value() if secret else None,
            server_metadata_url=f"{issuer}/.well-known/openid-configuration",
            client_kwargs={"scope": "openid email profile", "code_challenge_method": "S256", "timeout": 10},
        )
        # The same at every server of the same settings. Without a secret nobody else may know it: random, here alone.
        sealed = f"lrtune {secret.get_secret_value()}" if secret else secrets.token_hex(32)
        own = hashlib.sha256(sealed.encode()).hexdigest()
        app.add_middleware(
            SessionMiddleware, secret_key=own, session_cookie=f"lrtune-away-{own[:8]}", max_age=AWAY, same_site="lax"
        )

    async def leave(self, request: Request, target: str) -> Response:
        """Send somebody to the provider, who will want to go to `target`. Raises NotSignedIn."""
        address = f"{request.url.scheme}://{request.url.netloc}{root(request)}{RETURN}"
        try:
            await self._known()
            request.session["next"] = target
            answer: Response = await self._client.authorize_redirect(request, address)
        except self._not_reached as error:
            raise self._away(error) from None
        return answer

    async def come_back(self, request: Request) -> SignedIn:
        """Who came back. Raises NotSignedIn, with why in words."""
        from authlib.integrations.starlette_client import OAuthError
        from joserfc.errors import JoseError

        target = str(request.session.get("next", ""))
        try:
            await self._known()
            found = await self._client.authorize_access_token(request)
        except self._not_reached as error:
            raise self._away(error) from None
        except (OAuthError, JoseError) as error:
            said = getattr(error, "description", "") or getattr(error, "error", "") or type(error).__name__
            raise NotSignedIn(f"{self.name} did not sign you in: {str(said)[:200]}") from None
        except (KeyError, ValueError) as error:
            raise NotSignedIn(f"{self.name} gave an answer that cannot be read: {str(error)[:200]}") from None
        finally:
            request.session.clear()
        person = self._person(found.get("userinfo") or {})
        return SignedIn(person, ("admin",) if person in self._admins else ("read", "submit", "work"), target)

    async def _known(self) -> None:
        """Ask the provider for its description, once. Raises NotSignedIn where it says that it is another."""
        described = await self._client.load_server_metadata()
        if str(described.get("issuer", "")).rstrip("/") != self._issuer:
            raise NotSignedIn(f"LRTUNE_OIDC_ISSUER is {self._issuer}, and the provider there calls itself another")

    def _person(self, claims: Mapping[str, Any]) -> str:
        named = claims.get(self._claim)
        if self._claim == "email" and claims.get("email_verified") is False:
            raise NotSignedIn(f"{self.name} has not verified the address {str(named)[:100]!r}")
        if named == ADMIN and ADMIN not in self._admins:
            raise NotSignedIn(f"{self.name}: `{self._claim}` is {ADMIN!r}, which is who has this server's own key")
        try:
            return TypeAdapter[str](PersonName).validate_python(named)
        except ValidationError:
            words = "letters, digits and . _ - @ +, 64 at most"
            raise NotSignedIn(f"{self.name}: `{self._claim}` is {str(named)[:100]!r}; accepted are {words}") from None

    def _away(self, error: Exception) -> NotSignedIn:
        return NotSignedIn(f"{self.name} cannot be reached: {str(error) or type(error).__name__}"[:300])
