"""The configuration for Prometheus, its alerts and the board for Grafana fit the server's metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest

from localcloud.runtime.sockets import free_port
from tests.doubles.serving import KEY, TUNED, Background

if TYPE_CHECKING:
    from collections.abc import Iterator

MONITORING = Path(__file__).parents[2] / "docs/monitoring"
BOARD: Any = json.loads((MONITORING / "grafana.json").read_text())
PANELS = {panel["title"]: panel for panel in BOARD["panels"] if panel["type"] != "row"}
QUERIES = [(title, target["expr"]) for title, panel in PANELS.items() for target in panel["targets"]]
ALERTS = re.findall(r"expr: (?:>-\n\s+)?(.+)", (MONITORING / "alerts.yml").read_text())
METRIC = re.compile(r"\b(?:vllm:|fjarr_|http_|process_|gen_ai_)\w+")
PROMETHEUS = shutil.which("prometheus")


@pytest.fixture(scope="module")
def served() -> Iterator[Background]:
    with Background() as server:
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
        body = {"model": TUNED, "messages": [{"role": "user", "content": "Hello"}]}
        for fields in ({}, {}, {"max_tokens": 100_000}):
            httpx.post(url, json=body | fields, headers=headers)
        yield server


@pytest.mark.parametrize("query", sorted({query for _, query in QUERIES} | set(ALERTS)))
def test_every_metric_of_a_query_is_one_of_the_servers(served: Background, query: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    text = httpx.get(f"http://127.0.0.1:{served.port}/metrics", headers=headers).text
    names = set(METRIC.findall(query))
    assert names or query.startswith("up")
    known = set(re.findall(r"^([\w:]+)[{ ]", text, re.MULTILINE))
    known |= set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert names <= known, names - known


def test_panels_do_not_overlap_and_are_explained() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        covered = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not covered & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= covered
    assert all(panel["description"].endswith(".") for panel in PANELS.values())
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed: apt install prometheus")
def test_prometheus_itself_answers_every_query(served: Background, tmp_path: Path) -> None:
    port = free_port()
    configuration = (MONITORING / "prometheus.yml").read_text()
    for old, new in (
        ("15s", "1s"),
        ("scheme: https", "scheme: http"),
        ("APP.ENVIRONMENT.REGION.azurecontainerapps.io", f"127.0.0.1:{served.port}"),
    ):
        assert old in configuration
        configuration = configuration.replace(old, new)
    (tmp_path / "prometheus.yml").write_text(configuration)
    (tmp_path / "fjarr-key").write_text(KEY)
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    command = [
        str(PROMETHEUS),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        values = {"$job": ".*", "$model": ".*", "$__rate_interval": "30s"}
        wait_for(port, "count(vllm:num_requests_running)")
        wait_for(port, "rate(vllm:num_requests_running[30s])")  # a rate needs two scrapes
        for title, query in QUERIES:
            for name, value in values.items():
                query = query.replace(name, value)  # noqa: PLW2901 - the variables of the board are filled in
            assert ask(port, query), f"{title} shows nothing: {query}"
        rules = httpx.get(f"http://127.0.0.1:{port}/api/v1/rules").json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert len(rules) == len(ALERTS)
    finally:
        process.terminate()
        process.wait(60)


def ask(port: int, query: str) -> list[Any]:
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(query)}"
    response = httpx.get(url, timeout=60)
    if response.status_code == 503:
        return []  # it is starting
    assert response.status_code == 200, response.text
    result: list[Any] = response.json()["data"]["result"]
    return result


def wait_for(port: int, query: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if ask(port, query):
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "Prometheus did not scrape the server"
        time.sleep(0.2)
