"""Debian's Firefox for the tests of the page, by the protocol that it speaks itself: WebDriver BiDi over a websocket.

Playwright drives a Firefox of its own build only (see `docs/diary.md`).
"""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from websockets.sync.client import ClientConnection, connect

from tests.browsing import AXE_RUN, in_words

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
SCHEMES = {"dark": 0, "light": 1}
PATIENCE = 60.0  # seconds
ENTER, TAB = "\ue007", "\ue004"


class Firefox:
    """One tab, and what its console complained of."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._asked = socket, 0
        self.complaints: list[str] = []
        self.ask("session.new", capabilities={})
        self._tab = self.ask("browsingContext.getTree")["contexts"][0]["context"]
        self.ask("session.subscribe", events=["log.entryAdded"])

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a command; what happens meanwhile is kept."""
        self._asked += 1
        self._socket.send(json.dumps({"id": self._asked, "method": method, "params": params}))
        while (said := json.loads(self._socket.recv(timeout=PATIENCE))).get("id") != self._asked:
            if said.get("method") == "log.entryAdded" and said["params"]["level"] in ("error", "warn"):
                self.complaints.append(said["params"]["text"])
        assert said["type"] == "success", f"{method}: {said.get('message')}"
        return said["result"]

    def open(self, address: str) -> None:
        """Go to an address, until it is loaded."""
        self.ask("browsingContext.navigate", context=self._tab, url=address, wait="complete")

    def sized(self, width: int, height: int = 844) -> None:
        """Give the page this room."""
        self.ask("browsingContext.setViewport", context=self._tab, viewport={"width": width, "height": height})

    def evaluate(self, expression: str) -> Any:
        """What JavaScript makes of an expression, by way of JSON, awaited, as if the person had just clicked."""
        wrapped = f"(async () => JSON.stringify(await ({expression})) ?? 'null')()"
        answer = self.ask("script.evaluate", expression=wrapped, target={"context": self._tab}, awaitPromise=True,
                          userActivation=True)  # fmt: skip
        assert answer["type"] == "success", answer.get("exceptionDetails")
        return json.loads(answer["result"]["value"])

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"never came: {expression}; {self.complaints}"
            time.sleep(0.1)

    def typed(self, keys: str) -> None:
        """Press these keys, one after the other."""
        presses = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("input.performActions", context=self._tab,
                 actions=[{"type": "key", "id": "keyboard", "actions": presses}])  # fmt: skip

    def pressed(self, wanted: str) -> None:
        """Click what is wanted in its middle: keys do not press a button in a Firefox without a window."""
        place = self.evaluate(f"((one) => (one.scrollIntoView({{block: 'center'}}), one.getBoundingClientRect()))"
                              f"(document.querySelector({wanted!r}))")  # fmt: skip
        middle = {"x": int(place["x"] + place["width"] / 2), "y": int(place["y"] + place["height"] / 2)}
        clicks: list[dict[str, Any]] = [{"type": "pointerMove", **middle}]
        clicks += [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        self.ask("input.performActions", context=self._tab,
                 actions=[{"type": "pointer", "id": "mouse", "actions": clicks}])  # fmt: skip

    def faults(self) -> list[str]:
        """What axe finds, whatever its weight."""
        self.ask("script.evaluate", expression=AXE_SCRIPT, target={"context": self._tab}, awaitPromise=False)
        return in_words(self.evaluate(AXE_RUN))

    def picture(self, path: Path) -> None:
        """Keep what the whole page looks like."""
        taken = self.ask("browsingContext.captureScreenshot", context=self._tab, origin="document")
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def firefox(profile: Path, scheme: str) -> Iterator[Firefox]:
    """A Firefox of which nobody has made settings, on a system that is light or dark."""
    assert FIREFOX is not None
    prefs = {"layout.css.prefers-color-scheme.content-override": SCHEMES[scheme], "ui.prefersReducedMotion": 1}
    (profile / "user.js").write_text("".join(f'user_pref("{name}", {value});\n' for name, value in prefs.items()))
    command = [FIREFOX, "--headless", "--no-remote", "--remote-debugging-port", "0", "--profile", str(profile)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as started:
        try:
            assert started.stderr is not None
            line = next(one for one in started.stderr if "WebDriver BiDi listening on" in one)
            with connect(f"{line.split()[-1]}/session", proxy=None, max_size=None) as socket:
                yield Firefox(socket)
        finally:
            started.kill()
