"""The dashboard and the alert rules ask for nothing that /metrics does not have."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from live_server import crop, enroll, images, search, serve, wait_for_job
from scraped import samples
from service.settings import Settings

FOLDER = Path(__file__).parents[3] / "docker" / "grafana"

FUNCTIONS = {"clamp_min", "histogram_quantile", "increase", "rate", "sum", "min", "max", "label_values"}
LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = LISTS | {"and", "or", "unless", "bool", "offset"}
OF_PROMETHEUS = {"job", "instance"}
"""Labels that a scrape adds."""

TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]*\])|(?P<name>[a-zA-Z_:][\w:]*)|(?P<number>\d+(?:\.\d+)?)"""
    r"""|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},])|(?P<space>\s+)"""
)


@dataclass
class Asked:
    """What a query asks for: metrics with their matchers, and the labels that the results are grouped by."""

    metrics: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)


def tokens(query: str) -> Iterator[str]:
    """Return the tokens of a query, without ranges such as [5m]."""
    place = 0
    while place < len(query):
        found = TOKEN.match(query, place)
        assert found, f"cannot read {query[place:]!r}"
        place = found.end()
        if found.lastgroup not in ("space", "range"):
            yield found[0]


def read_query(query: str) -> Asked:
    """Return what a query asks for.

    >>> read_query('sum by (le) (rate(a_bucket{b="c"}[5m])) / d')
    Asked(metrics=[('a_bucket', [('b', '=', 'c')]), ('d', [])], labels={'le'})
    """
    asked, left = Asked(), list(tokens(query))
    while left:
        token = left.pop(0)
        following = left[0] if left else ""
        if token in LISTS:
            end = left.index(")")
            asked.labels |= {name for name in left[1:end] if name != ","}
            del left[: end + 1]
        elif not re.match("[a-zA-Z_]", token) or token in WORDS:
            continue
        elif token in FUNCTIONS:
            assert following in ("(", *LISTS), query
        else:
            asked.metrics.append((token, _matchers(left) if following == "{" else []))
    return asked


def _matchers(left: list[str]) -> list[tuple[str, str, str]]:
    end = left.index("}")
    inner = [one for one in left[1:end] if one != ","]
    del left[: end + 1]
    return [(name, how, json.loads(value)) for name, how, value in zip(*[iter(inner)] * 3, strict=True)]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Return the query and the legend of each panel, and the query of each variable."""
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"], target["legendFormat"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"].replace(", instance", ""), "{{instance}}"


def alert_queries() -> Iterator[tuple[str, str]]:
    """Return the query of each alert, and the texts that its labels fill."""
    (group,) = YAML(typ="safe").load(FOLDER / "alerts.yml")["groups"]
    for rule in group["rules"]:
        yield rule["expr"], " ".join(rule["annotations"].values())


QUERIES = [*dashboard_queries(), *alert_queries()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, make_settings: Any) -> dict[str, list[dict[str, str]]]:
    """The labels of each series by the name of its metric, of a server that has done some of everything."""
    settings: Settings = make_settings(tmp_path_factory.mktemp("grafana") / "data")
    with serve(settings) as client:
        enroll(client, crop(1))
        search(client, crop(1))
        accepted = client.post("/gallery", files=images(crop(2)), headers={"Prefer": "respond-async"})
        assert wait_for_job(client, accepted.headers["location"])["state"] == "succeeded"
        found: dict[str, list[dict[str, str]]] = {"up": [{"job": "reid-gallery"}]}
        for name, labels, _ in samples(client.get("/metrics").text):
            found.setdefault(name, []).append(labels)
    return found


@pytest.mark.parametrize(("query", "text"), QUERIES, ids=[f"{place}" for place, _ in enumerate(QUERIES)])
def test_each_metric_and_each_label_of_a_query_is_exported(
    query: str, text: str, exported: dict[str, list[dict[str, str]]]
) -> None:
    asked = read_query(query)
    assert asked.metrics
    known = set(OF_PROMETHEUS)
    for name, matchers in asked.metrics:
        assert name in exported, f"{name} is not exported: {query}"
        series = exported[name]
        known |= {label for labels in series for label in labels}
        for label, how, value in matchers:
            assert all(label in labels for labels in series) or label in OF_PROMETHEUS, f"{label}: {query}"
            if how == "=":
                assert any(labels[label] == value for labels in series), f"{label}={value}: {query}"
    assert asked.labels <= known, query
    assert set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", text)) <= known, query


def test_each_metric_of_ours_is_shown(exported: dict[str, list[dict[str, str]]]) -> None:
    shown = {name for query, _ in dashboard_queries() for name, _ in read_query(query).metrics}
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in exported} - {"up"}
    assert families == {re.sub("_(bucket|sum|count)$", "", name) for name in shown}


def test_what_is_not_exported_is_found(exported: dict[str, list[dict[str, str]]]) -> None:
    for query in ("rate(reid_nothing_total[5m])", 'reid_items{route="/search"}', 'reid_jobs{state="lost"}'):
        with pytest.raises(AssertionError):
            test_each_metric_and_each_label_of_a_query_is_exported(query, "", exported)
