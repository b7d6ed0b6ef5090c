"""What /metrics says, as numbers by the name and the labels of a series."""

from collections import defaultdict

import httpx
from prometheus_client.parser import text_string_to_metric_families

Series = dict[str, float]


def scrape(client: httpx.Client) -> Series:
    """Return the value of each series, by text such as `reid_jobs{kind="import",state="queued"}`; else 0."""
    answer = client.get("/metrics")
    assert answer.status_code == httpx.codes.OK, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return defaultdict(float, {_name(*one[:2]): one[2] for one in samples(answer.text)})


def samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    """Return the name, the labels and the value of each series."""
    families = text_string_to_metric_families(text)
    return [(one.name, one.labels, one.value) for family in families for one in family.samples]


def _name(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name
