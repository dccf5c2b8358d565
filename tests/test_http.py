"""HTTP as proxies, monitors and plain clients use it: HEAD, OPTIONS, slashes, what is accepted, packed bodies."""

import gzip
import json
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.serving import KEY, finished, served, slug

JSON = {"Content-Type": "application/json"}
STREAM = {"Accept": "text/event-stream"}
GZIP = JSON | {"Content-Encoding": "gzip"}
JOB = json.dumps({"task": "digits"}).encode()
VARYING = {"date", "x-request-id"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[httpx.Client]:
    """A server with a finished job `done`, a dataset, and limits that are soon reached."""
    folder = tmp_path_factory.mktemp("http")
    (folder / "lrtune.db").write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{folder / 'lrtune.db'}"
    with served(url, data_dir=folder / "data", max_body_bytes=20_000, max_upload_bytes=200_000) as client:
        finished(client, url)
        client.post("/v1/datasets", params={"name": "some.csv"}, content=TABLE)
        yield client


TABLE = b"x,y\n" + b"".join(b"%d,%d\n" % (row, row % 2) for row in range(200))


def job(service: httpx.Client) -> str:
    return str(service.get("/v1/jobs?state=succeeded").json()["items"][0]["id"])


def headers(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in VARYING}


# HEAD -----------------------------------------------------------------------------------------------------------------


def test_head_is_get_without_its_body_on_every_path(shared: httpx.Client) -> None:
    with httpx.Client(base_url=shared.base_url, timeout=60, trust_env=False) as browser:
        browser.post("/sign-in", data={"key": KEY})
        described = shared.get("/openapi.json").json()["paths"]
        paths = [path for path, methods in described.items() if "get" in methods and path != "/metrics"]
        paths += ["/", "/submit", "/workers", "/tasks", "/jobs/{job_id}", "/jobs/{job_id}/why", "/docs", "/redoc"]
        paths += ["/openapi.json", "/static/app.css", "/static/docs/swagger-ui.css", "/nowhere", "/v1/jobs/none"]
        names = {"job_id": job(shared), "number": 1, "dataset_id": "some.csv"}
        for path in (path.format(**names) for path in paths):
            client = shared if path.startswith("/v1") else browser
            got, head, again = client.get(path), client.head(path), client.get(path)
            assert (head.status_code, head.content) == (got.status_code, b""), path
            form = {"content-length": head.headers["content-length"]} if path == "/submit" else {}
            # What says how long ago something was may grow by a character meanwhile, once.
            assert headers(head) in (headers(got) | form, headers(again) | form), path
            assert head.headers.get("content-length") != "0", path


def test_head_of_an_event_stream_ends(shared: httpx.Client) -> None:
    """The job that it follows is not over, so a GET would not."""
    queued = shared.post("/v1/jobs", json={"task": "digits"}).json()["id"]
    for path in (f"/v1/jobs/{queued}/events", f"/jobs/{queued}/live"):
        with httpx.Client(base_url=shared.base_url, trust_env=False, timeout=10) as browser:
            browser.post("/sign-in", data={"key": KEY})
            answer = browser.head(path, headers=STREAM)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"


def test_head_knows_etags_and_no_ranges(shared: httpx.Client) -> None:
    path = f"/v1/jobs/{job(shared)}"
    etag = shared.head(path).headers["etag"]
    assert etag == shared.get(path).headers["etag"]
    assert shared.head(path, headers={"If-None-Match": etag}).status_code == 304
    part = {"Range": "bytes=0-9"}
    assert shared.get("/static/app.css", headers=part).status_code == 206
    assert shared.head("/static/app.css", headers=part).status_code == 200
    etag = shared.head("/static/app.css").headers["etag"]
    assert shared.get("/static/app.css", headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.parametrize("path", ["/v1/jobs", "/metrics"])
def test_head_asks_for_the_key_where_get_does(shared: httpx.Client, path: str) -> None:
    answer = httpx.head(f"{shared.base_url}{path}", trust_env=False)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_who_has_no_key_learns_nothing_of_what_is_wrong_with_a_body(shared: httpx.Client) -> None:
    answer = httpx.post(f"{shared.base_url}/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 401
    assert shared.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400


# Which methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/jobs", "GET, HEAD, OPTIONS, POST"),
        ("/v1/jobs/job-1", "DELETE, GET, HEAD, OPTIONS"),
        ("/v1/jobs/job-1/cancel", "OPTIONS, POST"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/static/app.css", "GET, HEAD, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS"),
        ("/docs", "GET, HEAD, OPTIONS"),
    ],
)
def test_every_path_says_what_it_takes(shared: httpx.Client, path: str, allowed: str) -> None:
    asked = shared.options(path)
    assert (asked.status_code, asked.headers["allow"], asked.content) == (204, allowed, b"")
    for method in ("PATCH", "TRACE", "PROPFIND"):
        refused = shared.request(method, path)
        assert (refused.status_code, refused.headers["allow"], slug(refused)) == (405, allowed, "method-not-allowed")
        page = shared.request(method, path, headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["allow"]) == (405, allowed)
    assert (shared.head(path).status_code == 405) == ("GET" not in allowed)
    assert shared.options("/nowhere").status_code == 404


def test_the_server_as_a_whole_says_what_it_takes(shared: httpx.Client) -> None:
    heard = said(shared, b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").decode().lower()
    assert heard.startswith("http/1.1 204 ")
    assert "\r\nallow: delete, get, head, options, post\r\n" in heard


def test_slashes_too_many_lead_to_the_path_without_naming_a_host(shared: httpx.Client) -> None:
    for path in ("/v1/jobs/", "//v1/jobs", "/v1//jobs//", "///v1/jobs"):
        answer = shared.build_request("POST", f"{shared.base_url}{path}?validate_only=true", json={"task": "digits"})
        answer.url = answer.url.copy_with(raw_path=f"{path}?validate_only=true".encode())
        found = shared.send(answer)
        assert (found.status_code, found.headers["location"]) == (307, "/v1/jobs?validate_only=true"), path
    assert shared.post("/v1/jobs/?validate_only=true", json={"task": "digits"}, follow_redirects=True).json()["cost"]
    for path in ("//elsewhere.example/", "/nowhere/", "/\\elsewhere.example/", "/static/"):
        request = shared.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = shared.send(request)
        assert (answer.status_code, "location" in answer.headers) == (404, False), path


def test_what_is_percent_encoded_is_the_same_path(shared: httpx.Client) -> None:
    name = job(shared)
    encoded = "".join(f"%{ord(letter):02x}" for letter in name)
    assert shared.get(f"/v1/jobs/{encoded}").json()["id"] == name
    assert shared.get("/v1/datasets/some%2Ecsv").json()["name"] == "some.csv"


def test_the_log_is_streamed_to_whoever_would_rather_have_it_so(shared: httpx.Client) -> None:
    path = f"/v1/jobs/{job(shared)}/events"
    ways = {
        "text/event-stream": True,
        "Text/Event-Stream": True,
        "application/json;q=0.5, text/event-stream": True,
        "application/json, text/event-stream;q=0.5": False,
        "application/json, text/event-stream;q=0": False,
        "*/*": False,
        "text/html, */*;q=0.1": False,
        "": False,
    }
    for accept, streamed in ways.items():
        kind = shared.head(path, headers={"Accept": accept}).headers["content-type"]
        assert kind.startswith("text/event-stream") == streamed, accept


# Packed bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "identity, gzip"])
def test_a_gzip_body_is_read_like_any_other(shared: httpx.Client, coding: str) -> None:
    answer = shared.post("/v1/jobs", content=gzip.compress(JOB), headers=JSON | {"Content-Encoding": coding})
    assert answer.status_code == 201, answer.text
    halves = gzip.compress(JOB[:5]) + gzip.compress(JOB[5:])
    assert shared.post("/v1/jobs", content=iter([halves[:7], halves[7:]]), headers=GZIP).status_code == 201
    wrong = shared.post("/v1/jobs", content=gzip.compress(b'{"task": "digits", "taks": 1}'), headers=GZIP)
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "/taks")
    assert shared.post("/v1/jobs", content=JOB, headers=JSON | {"Content-Encoding": "identity"}).status_code == 201


def test_a_gzip_upload_is_the_file_that_was_packed(shared: httpx.Client) -> None:
    packed = {"Content-Encoding": "gzip"}
    plainly = shared.post("/v1/datasets", params={"name": "some.csv"}, content=TABLE).json()
    again = shared.post("/v1/datasets", params={"name": "some.csv"}, content=gzip.compress(TABLE), headers=packed)
    assert (again.status_code, again.json()["id"]) == (200, plainly["id"])


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets?name=bomb.txt", "/sign-in"])
def test_a_body_that_unpacks_to_too_much_is_refused_before_it_has(shared: httpx.Client, path: str) -> None:
    bomb = gzip.compress(b" " * 100_000_000)
    assert len(bomb) < 100_000
    tracemalloc.start()
    try:
        answer = shared.post(path, content=iter([bomb[:20_000], bomb[20_000:]]), headers=GZIP)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (answer.status_code, slug(answer)) == (413, "too-large")
    assert peak < 5_000_000


def test_a_body_of_files_that_unpack_to_nothing_is_bounded_as_it_was_packed(shared: httpx.Client) -> None:
    answer = shared.post("/v1/jobs", content=iter([gzip.compress(b"") * 10_000] * 10), headers=GZIP)
    assert (answer.status_code, slug(answer)) == (413, "too-large")


def test_what_is_no_gzip_or_breaks_off_is_said_so(shared: httpx.Client) -> None:
    packed = gzip.compress(JOB)
    for content, words in (
        (JOB, "no gzip"),
        (packed[:-9], "breaks off"),
        (packed[:12] * 2, "gzip"),
    ):
        answer = shared.post("/v1/jobs", content=content, headers=GZIP)
        assert (answer.status_code, slug(answer)) == (400, "bad-request")
        assert words in answer.json()["detail"]
    cut = shared.post(
        "/v1/datasets?name=a.csv", content=gzip.compress(TABLE)[:-20], headers={"Content-Encoding": "gzip"}
    )
    assert (cut.status_code, slug(cut)) == (400, "bad-request")


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, br", "rot13"])
def test_other_codings_are_refused_with_the_one_there_is(shared: httpx.Client, coding: str) -> None:
    answer = shared.post("/v1/jobs", content=JOB, headers=JSON | {"Content-Encoding": coding})
    assert (answer.status_code, slug(answer)) == (415, "unsupported-encoding")
    assert answer.headers["accept-encoding"] == "gzip"
    assert coding in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/json;charset=UTF-8"])
def test_a_charset_beside_the_type_does_no_harm(shared: httpx.Client, kind: str) -> None:
    named = {"task": "digits", "name": "café"}
    content = json.dumps(named, ensure_ascii=False).encode()
    answer = shared.post("/v1/jobs", content=content, headers={"Content-Type": kind})
    assert answer.json()["spec"]["name"] == "café"
    latin = shared.post("/v1/jobs", content=content.decode().encode("latin-1"), headers={"Content-Type": kind})
    assert (latin.status_code, slug(latin)) == (400, "bad-request")


# Clients that speak HTTP plainly --------------------------------------------------------------------------------------


def said(service: httpx.Client, *requests: bytes) -> bytes:
    """What a server answers on one connection until it closes it."""
    with socket.create_connection((service.base_url.host, service.base_url.port or 80), timeout=20) as line:
        for request in requests:
            line.sendall(request)
        heard = b""
        while piece := line.recv(65536):
            heard += piece
    return heard


def test_an_old_monitor_is_answered_and_let_go(shared: httpx.Client) -> None:
    for connection in (b"", b"Connection: keep-alive\r\n"):
        for method in (b"GET", b"HEAD"):
            heard = said(shared, method + b" /healthz HTTP/1.0\r\n" + connection + b"\r\n")
            head, _, body = heard.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"chunked" not in head
            assert body == (b'{"status":"ok"}' if method == b"GET" else b"")


def test_a_client_that_waits_before_it_sends_is_told_to_go_on_or_not(shared: httpx.Client) -> None:
    start = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode() + b"\r\nConnection: close\r\n"
    start += b"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n"
    went_on = said(shared, start % len(JOB) + b"\r\n", JOB)
    assert went_on.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")
    assert said(shared, start % 1_000_000_000 + b"\r\n").startswith(b"HTTP/1.1 413 ")
    assert said(shared, start % 9 + b"Content-Encoding: br\r\n\r\n").startswith(b"HTTP/1.1 415 ")


# Files ----------------------------------------------------------------------------------------------------------------


def test_a_file_of_usual_length_says_how_long_it_is(shared: httpx.Client) -> None:
    answer = shared.get(f"/v1/jobs/{job(shared)}/best/export?format=csv")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
