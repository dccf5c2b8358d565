"""An OpenID Connect provider on this machine: real HTTP, real signatures, and whoever a test says is there signs in."""

import base64
import hashlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from joserfc import jwt
from joserfc.jwk import RSAKey


class Provider:
    """`claims` are those of who signs in next; `changed` those of the token, `refuse` an error instead of a code."""

    def __init__(self) -> None:
        self.issuer, self.claims, self.changed, self.refuse = "", {"email": "ada@example.org"}, dict[str, Any](), ""
        self.key = self.signing = RSAKey.generate_key(2048, parameters={"kid": "one"})
        self.codes: dict[str, dict[str, str]] = {}
        self.app = FastAPI()
        self.app.get("/.well-known/openid-configuration")(self.described)
        self.app.get("/keys")(lambda: {"keys": [self.key.as_dict(private=False)]})
        self.app.get("/authorize")(self.authorize)
        self.app.post("/token")(self.token)

    def described(self) -> dict[str, Any]:
        ends = {"authorization": "authorize", "token": "token"}
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/keys",
            "id_token_signing_alg_values_supported": ["RS256"],
            **{f"{name}_endpoint": f"{self.issuer}/{path}" for name, path in ends.items()},
        }

    def authorize(self, request: Request) -> RedirectResponse:
        asked = dict(request.query_params)
        assert asked["response_type"] == "code"
        assert "openid" in asked["scope"].split()
        back: dict[str, str] = {"state": asked["state"]}
        if self.refuse:
            back |= {"error": "access_denied", "error_description": self.refuse}
        else:
            back["code"] = secrets.token_hex(8)
            self.codes[back["code"]] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(back)}")

    async def token(self, request: Request) -> JSONResponse:
        given = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        asked = self.codes.pop(given["code"], None)
        digest = hashlib.sha256(given["code_verifier"].encode()).digest()
        proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        basic = base64.b64encode(b"lrtune:a secret of the two").decode()
        known = request.headers.get("authorization") == f"Basic {basic}"
        if asked is None or proof != asked["code_challenge"] or not known:
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "1", "aud": "lrtune", "iat": now, "exp": now + 60, "nonce": asked["nonce"]}
        signed = jwt.encode({"alg": "RS256", "kid": "one"}, claims | self.claims | self.changed, self.signing)
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "expires_in": 60, "id_token": signed})


@contextmanager
def provider() -> Iterator[Provider]:
    """One that listens."""
    made = Provider()
    server = uvicorn.Server(uvicorn.Config(made.app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made.issuer = "http://127.0.0.1:{1}".format(*listening.getsockname())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield made
        finally:
            server.should_exit = True
            thread.join()
