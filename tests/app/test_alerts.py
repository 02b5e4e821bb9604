"""docs/datarun.rules.yml: alerts on metrics that there are, which Prometheus takes and raises when they should be."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/datarun.rules.yml"
[GROUP] = yaml.safe_load(FILE.read_text())["groups"]
RULES = {rule["alert"]: rule for rule in GROUP["rules"]}


@pytest.fixture(scope="session")
def promtool() -> Iterator[str]:
    """Prometheus's own, out of Debian's package, of which nothing is installed: it would start a server."""
    if found := shutil.which("promtool"):
        yield found
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack = "apt-get -qq download prometheus && dpkg --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool"
        done = subprocess.run(["sh", "-c", unpack], cwd=folder, capture_output=True, text=True)
        program = Path(folder, "usr/bin/promtool")
        if not program.exists():
            pytest.skip(f"no promtool to be had: {done.stderr[-200:]}")
        yield str(program)


@pytest.mark.parametrize(
    "arguments", [["check", "rules", FILE], ["test", "rules", Path(__file__).with_name("alerts.yml")]]
)
def test_prometheus_takes_them_and_raises_them_when_they_should_be(promtool, arguments):
    done = subprocess.run([promtool, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", RULES)
def test_it_looks_at_metrics_that_there_are(name, api):
    families = text_string_to_metric_families(api.get("/metrics").content.decode())
    samples = [sample for family in families for sample in family.samples]
    asked = re.findall(r'(datarun_\w+)(?:{(\w+)="([^"]+)"})?', RULES[name]["expr"])
    assert asked
    for metric, label, value in asked:
        found = [sample for sample in samples if sample.name == metric]
        assert any(not label or sample.labels[label] == value for sample in found), f"{metric} {label} {value}"


@pytest.mark.parametrize("name", RULES)
def test_it_says_how_bad_it_is_and_what_to_do(name):
    rule = RULES[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook"} == rule["annotations"].keys()
    file, anchor = rule["annotations"]["runbook"].split("#")
    headings = re.findall(r"^#+ (.*)", (ROOT / file).read_text(), re.M)
    assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
