"""The Grafana dashboard and the scrape configuration name metrics that are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from loki_rl.serving.observe.metrics import exposition
from loki_rl.serving.state import PlaneState

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def test_every_query_of_the_dashboard_names_a_metric_with_the_labels_it_has(plane_state: PlaneState) -> None:
    lines = exposition(plane_state).decode().splitlines()
    known = {found[1]: set(re.findall(r"(\w+)=", found[2])) for line in lines if (found := re.match(r"(\w+)\{(.*)\}", line))}
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 20
    for query in queries:
        labels = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")}
        for name in re.findall(r"loki_\w+", query):
            assert labels <= known[name], query
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_prometheus_asks_where_metrics_are() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
