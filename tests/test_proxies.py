"""Behind a proxy that takes a prefix off or ends TLS: real processes of the server, and a proxy of ours before them."""

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from lrtune.client import Client
from tests import processes
from tests.browsing import browser, visitor
from tests.serving import KEY, finished, reached, served

PAGE = {"Accept": "text/html"}


class Proxy(BaseHTTPRequestHandler):
    """Passes on what is below `/lrtune`, without it, as nginx and Traefik can be set up to."""

    protocol_version = "HTTP/1.1"
    port, extra = 0, dict[str, str]()

    def _pass(self) -> None:
        if not self.path.startswith("/lrtune/"):
            self.send_error(418, "not below the prefix")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(line):
            line.request(self.command, self.path.removeprefix("/lrtune"), body, dict(self.headers) | self.extra)
            answer = line.getresponse()
            content = b"" if answer.getheader("content-type", "").startswith("text/event-stream") else answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = _pass  # noqa: N815

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def proxied(database_url: str, folder: Path, *options: str, **extra: str) -> Iterator[tuple[str, str]]:
    """The address that a proxy gives a server, and the server's own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = folder / "run.py"
    program.write_text("from lrtune.cli.commands import app\n\napp()\n")
    command = (str(program), "serve", "--port", str(port), *options)
    settings = {"LRTUNE_DATABASE_URL": database_url, "LRTUNE_API_KEY": KEY, "LRTUNE_DATA_DIR": str(folder / "data")}
    settings["LRTUNE_MAX_BODY_BYTES"] = "20000"  # uploads may be larger, below a prefix too
    server = processes.start(*command, environment=settings, log=folder / "server.log")
    handler = type("Handler", (Proxy,), {"port": port, "extra": extra})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            reached(client, server)
        yield f"http://127.0.0.1:{proxy.server_address[1]}/lrtune", f"http://127.0.0.1:{port}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.kill()
        server.join()


def with_key() -> httpx.Client:
    return httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=60, trust_env=False)


WAYS = {
    "root-path": (("--root-path", "/lrtune"), {}),
    "root-path with slashes": (("--root-path", "/lrtune/"), {}),
    "forwarded prefix": ((), {"X-Forwarded-Prefix": "/lrtune"}),
}
ADDRESS = re.compile(r'\b(?:href|src|action|hx-get|data-live|data-trials)="(/[^"]*)"')


@pytest.mark.parametrize(("options", "extra"), [WAYS["root-path"], WAYS["forwarded prefix"]])
def test_every_address_of_every_page_lies_below_the_prefix(
    sqlite_url: str, tmp_path: Path, options: tuple[str, ...], extra: dict[str, str]
) -> None:
    with (
        proxied(sqlite_url, tmp_path, *options, **extra) as (address, _),
        httpx.Client(timeout=60, trust_env=False) as someone,
    ):
        with Client(address, KEY) as client:
            job = finished(client._http, sqlite_url)
            client.dataset(client.add_dataset(_table(tmp_path)).id)
        assert (
            someone.get(f"{address}/workers", headers=PAGE).headers["location"]
            == "/lrtune/sign-in?next=%2Flrtune%2Fworkers"
        )
        entered = someone.post(f"{address}/sign-in", data={"key": KEY, "next": "/lrtune/workers"})
        assert (entered.status_code, entered.headers["location"]) == (303, "/lrtune/workers")
        assert "Path=/lrtune;" in entered.headers["set-cookie"]
        seen, left = set(), [f"/lrtune{path}" for path in ("/", f"/jobs/{job}", "/docs", "/redoc", "/nowhere")]
        while left:
            path = left.pop()
            seen.add(path)
            answer = someone.get(urljoin(address, path), headers=PAGE)
            assert answer.status_code == (404 if path.endswith("/nowhere") else 200), path
            if answer.headers["content-type"].startswith("text/html"):
                found = {urlsplit(one)._replace(fragment="").geturl() for one in ADDRESS.findall(answer.text)}
                found -= {
                    one
                    for one in found
                    if re.search(
                        r"/(live|pause|resume|stop|cancel|extend|delete|sign-out|trials/|compare|report\?format=\w+)$",
                        one,
                    )
                }
                left += sorted(found - seen - set(left))
        assert len(seen) > 25
        assert all(path.startswith("/lrtune/") for path in seen)


def _table(folder: Path) -> Path:
    path = folder / "some.csv"
    path.write_bytes(b"x,y\n" + b"".join(b"%d,%d\n" % (row, row % 2) for row in range(5000)))
    return path


@pytest.mark.parametrize(("options", "extra"), WAYS.values(), ids=WAYS)
def test_what_the_api_points_to_lies_below_the_prefix(
    sqlite_url: str, tmp_path: Path, options: tuple[str, ...], extra: dict[str, str]
) -> None:
    with proxied(sqlite_url, tmp_path, *options, **extra) as (address, own), with_key() as client:
        made = client.post(f"{address}/v1/jobs", json={"task": "digits"})
        assert made.headers["location"] == f"/lrtune/v1/jobs/{made.json()['id']}"
        assert client.get(urljoin(address, made.headers["location"])).json() == made.json()
        slashed = client.post(f"{address}/v1/jobs/?validate_only=true", json={"task": "digits"})
        assert slashed.headers["location"] == "/lrtune/v1/jobs?validate_only=true"
        added = client.post(f"{address}/v1/datasets?name=some.csv", content=_table(tmp_path).read_bytes())
        assert client.get(urljoin(address, added.headers["location"])).json() == added.json()
        described = client.get(f"{address}/openapi.json").json()
        assert described["servers"] == [{"url": "/lrtune"}]
        assert "/lrtune/docs" in client.get(f"{address}/nowhere").json()["detail"]
        assert client.put(f"{address}/v1/jobs").headers["allow"] == "GET, HEAD, OPTIONS, POST"
        left_on = client.get(own + made.headers["location"], headers=extra)
        assert left_on.json() == made.json(), "a proxy may leave the prefix on"
        assert "API" in client.get(f"{own}/lrtune/docs", headers=extra).text
        assert client.get(f"{own}/lrtune", headers=PAGE | extra).headers["location"].startswith("/lrtune/sign-in?")
        for path in ("/healthz", "/readyz"):
            assert client.get(own + path).json() == client.get(address + path).json() == {"status": "ok"}
        counted = client.get(f"{address}/metrics").text
        assert 'route="/v1/jobs",status="201"' in counted
        assert "lrtune/" not in counted


def test_in_a_browser_everything_works_below_a_prefix(sqlite_url: str, tmp_path: Path) -> None:
    with proxied(sqlite_url, tmp_path, "--root-path", "/lrtune") as (address, _):
        with Client(address, KEY) as client:
            job = finished(client._http, sqlite_url)
        with browser() as window, visitor(window, address) as someone:
            someone.sign_in()
            page = someone.page
            page.get_by_role("button", name="Light or dark").click()
            page.get_by_role("link", name="digits").first.click()
            page.locator("#curves canvas").first.wait_for()
            page.locator("#why dt").first.wait_for()
            page.locator("#snippet").wait_for()
            someone.open("/submit")
            page.locator("#cost", has_text=re.compile("full runs")).wait_for()
            page.get_by_role("button", name="Submit").click()
            page.wait_for_url(re.compile(f"^{address}/jobs/job-"))
            assert job not in page.url
            for path in ("/docs", "/redoc"):
                someone.open(path)
                page.get_by_text("Submit a job").filter(visible=True).first.wait_for()
            assert {cookie["path"] for cookie in window.cookies()} == {"/lrtune"}
            someone.open("/")
            page.get_by_role("button", name="Sign out").click()
            page.get_by_role("heading", name="Sign in").wait_for()
            assert [cookie["name"] for cookie in window.cookies()] == ["lrtune-theme"]


@pytest.mark.parametrize(
    "prefix", ["//elsewhere.example", "/..", "elsewhere", '/"><script>', "/a//b", "https://x/", "/\\x"]
)
def test_a_prefix_that_is_none_is_not_taken(sqlite_url: str, prefix: str) -> None:
    with served(sqlite_url) as service:
        answer = service.post("/v1/jobs/", json={"task": "digits"}, headers={"X-Forwarded-Prefix": prefix})
        assert answer.headers["location"] == "/v1/jobs"
        page = service.get("/workers", headers=PAGE | {"X-Forwarded-Prefix": prefix})
        assert page.headers["location"] == "/sign-in?next=%2Fworkers"


def test_a_prefix_may_be_called_like_a_path_of_ours(sqlite_url: str) -> None:
    with served(sqlite_url) as service:
        answer = service.post("/v1/jobs/", json={"task": "digits"}, headers={"X-Forwarded-Prefix": "/v1"})
        assert answer.headers["location"] == "/v1/v1/jobs"
        page = service.get("/jobs/none/", headers=PAGE | {"X-Forwarded-Prefix": "/jobs"})
        assert page.headers["location"] == "/jobs/jobs/none"


def test_over_tls_the_session_is_for_tls_only_and_nothing_names_a_host(sqlite_url: str, tmp_path: Path) -> None:
    outside = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "tune.example", "X-Forwarded-For": "192.0.2.1"}
    with proxied(sqlite_url, tmp_path, "--root-path", "/lrtune", **outside) as (address, own), with_key() as client:
        entered = client.post(f"{address}/sign-in", data={"key": KEY})
        assert (entered.headers["location"], "Secure" in entered.headers["set-cookie"]) == ("/lrtune/", True)
        for path in ("/v1/jobs/", "//v1/jobs"):
            assert client.post(address + path, json={"task": "digits"}).headers["location"] == "/lrtune/v1/jobs"
        assert "Secure" not in client.post(f"{own}/sign-in", data={"key": KEY}).headers["set-cookie"]


def test_a_proxy_that_is_not_trusted_changes_no_scheme(sqlite_url: str, tmp_path: Path) -> None:
    options = ("--forwarded-allow-ips", "192.0.2.7")
    with proxied(sqlite_url, tmp_path, *options, **{"X-Forwarded-Proto": "https"}) as (address, _):
        entered = httpx.post(f"{address}/sign-in", data={"key": KEY}, trust_env=False)
        assert "Secure" not in entered.headers["set-cookie"]
