"""What the page of a large job costs: `python -m benchmarks.page`. Needs Chromium for the scrolling.

Makes a job of 5,000 ended trials (`--trials`), 50 reports each, on SQLite, and prints for each part that a browser asks
for when it opens the page the milliseconds of CPU of the server (the least of three; what asks is in them) and the
bytes before packing; then, in Chromium, how long the frames take while the page is scrolled from top to end.
"""

import argparse
import platform
import re
import tempfile
import time
from pathlib import Path
from statistics import quantiles

import httpx

import migrations
from tests.browsing import browser
from tests.crowd import crowded
from tests.serving import KEY, served

PARTS = ("/landscape", "/history", "/why", "/export")
FRAMES = """async () => {
    const times = [], step = 60, end = document.documentElement.scrollHeight;
    let before = await new Promise(requestAnimationFrame);
    for (let at = 0; at < end; at += step) {
        scrollTo(0, at);
        const now = await new Promise(requestAnimationFrame);
        times.push(now - before);
        before = now;
    }
    return times;
}"""


def cost(http: httpx.Client, path: str) -> tuple[float, int]:
    """Milliseconds of CPU and bytes of one answer."""
    found = []
    for _ in range(3):
        began = time.process_time()
        answer = http.get(path, headers={"Accept": "application/json" if path.startswith("/v1") else "text/html"})
        answer.raise_for_status()
        found.append((time.process_time() - began) * 1000)
    return min(found), len(answer.content)


def scrolled(http: httpx.Client, job: str) -> list[float]:
    """Milliseconds of each frame while the page of a job is scrolled."""
    with browser() as window:
        page = window.new_page()
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(f"{http.base_url}/sign-in")
        page.get_by_label("Key").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Jobs").wait_for()
        page.goto(f"{http.base_url}/jobs/{job}")
        page.locator("#landscape canvas").wait_for()
        page.locator("#history canvas").wait_for()
        times: list[float] = page.evaluate(FRAMES)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    args = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, {args.trials:,} trials")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'lrtune.db'}"
        migrations.upgrade(url)
        job = crowded(url, trials=args.trials)
        with served(url) as http:
            http.post("/sign-in", data={"key": KEY})
            page = http.get(f"/jobs/{job}", headers={"Accept": "text/html"}).text
            static = dict.fromkeys(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
            parts = [f"/jobs/{job}", f"/v1/jobs/{job}/curves", *(f"/jobs/{job}{part}" for part in PARTS)]
            found = {path.replace(job, "{id}"): cost(http, path) for path in parts}
            found["scripts and styles"] = 0.0, sum(len(http.get(path).content) for path in static)
            for path, (cpu, size) in found.items():
                print(f"| {path} | {cpu:.0f} ms | {size / 1000:.0f} kB |")
            cpus, sizes = zip(*found.values(), strict=True)
            print(f"| in all | {sum(cpus):.0f} ms | {sum(sizes) / 1000:.0f} kB |", flush=True)
            cuts = quantiles(scrolled(http, job), n=20)
    print(f"frames while scrolling: {cuts[9]:.0f} ms in the median, 95 % within {cuts[18]:.0f} ms")


if __name__ == "__main__":
    main()
