"""The board for Grafana keeps the rules of its classic dashboard model.

Source: Grafana documentation, "Dashboard JSON model", classic model; `@grafana/schema` for the options of
panels, and `getValueFormats` of `@grafana/data` for the units.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

BOARD: Any = json.loads((Path(__file__).parents[2] / "docs/monitoring/grafana.json").read_text("utf-8"))
VARIABLES = {each["name"]: each for each in BOARD["templating"]["list"]}
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
STATS = [panel for panel in PANELS if panel["type"] == "stat"]
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"short", "s", "reqps", "bytes", "percentunit"}
BUILT_IN = {"__rate_interval", "__all"}


def title(panel: Any) -> str:
    return str(panel["title"])


def test_it_can_be_imported_anywhere() -> None:
    # Since 39, Grafana 11.0; later ones are migrated when a board is opened.
    assert BOARD["schemaVersion"] == 39
    # An id is given by the import, and a source of data is chosen by a variable.
    assert not {"id", "__inputs", "__requires"} & BOARD.keys()
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"
    for name in ("job", "model"):
        variable = VARIABLES[name]
        assert (variable["type"], variable["datasource"]) == ("query", PROMETHEUS)
        # "All" matches series that have no such label, too.
        assert (variable["includeAll"], variable["allValue"]) == (True, ".*")
        assert variable["query"]["query"].startswith("label_values(")


def test_every_variable_exists_and_is_used() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD))) - BUILT_IN
    assert used == set(VARIABLES)


@pytest.mark.parametrize("panel", PANELS, ids=title)
def test_a_panel_is_complete(panel: Any) -> None:
    assert panel["type"] in {"stat", "timeseries"}
    assert panel["datasource"] == PROMETHEUS
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults.get("unit", "short") in UNITS
    assert panel["fieldConfig"]["overrides"] == []
    targets = panel["targets"]
    assert len({target["refId"] for target in targets}) == len(targets)
    assert all(target["datasource"] == PROMETHEUS for target in targets)
    if panel["type"] == "timeseries":
        legend = panel["options"]["legend"]
        assert legend.keys() == {"calcs", "displayMode", "placement", "showLegend"}
        assert panel["options"]["tooltip"]["mode"] == "multi"


@pytest.mark.parametrize("panel", PANELS, ids=title)
def test_a_legend_names_labels_that_the_query_keeps(panel: Any) -> None:
    for target in panel["targets"]:
        kept = re.search(r"\bby \(([^)]*)\)", target["expr"])
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            # Without an aggregation, a series has the label of its target.
            assert label in re.split(r",\s*", kept[1]) if kept else label == "instance"


@pytest.mark.parametrize("panel", STATS, ids=title)
def test_the_colour_of_a_number_says_what_it_means(panel: Any) -> None:
    """Without thresholds of its own, Grafana shows every number above 80 in red."""
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["color"] == {"mode": "thresholds"}
    steps = defaults["thresholds"]["steps"]
    assert defaults["thresholds"]["mode"] == "absolute"
    assert steps[0]["value"] is None
    limits = [step["value"] for step in steps[1:]]
    assert limits == sorted(limits)
    assert {step["color"] for step in steps} <= {"text", "green", "orange", "red"}
