"""/metrics, the dashboard, the alarms and the documentation name the same metrics, and promtool takes all of them."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest

import harness

MONITORING = harness.ROOT / "docs" / "monitoring"
NAME = re.compile(r"\b(?:petnet|process)_[a-z0-9_]+\b")


def fetch(address, path, **headers):
    request = urllib.request.Request(f"http://{address}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers


@pytest.fixture
def http_address(gateways, tmp_path):
    """HTTP_LISTEN_ADDR of a gateway that has one peer and accepted one message for it."""
    ports = dict(zip(("party_a", "party_b"), harness.free_ports(2)))
    party_file = harness.write_party_file(tmp_path / "party.json", ports)
    address = f"127.0.0.1:{harness.free_ports(1)[0]}"
    gateways("party_b", ports["party_b"], party_file)
    a = gateways("party_a", ports["party_a"], party_file, HTTP_LISTEN_ADDR=address)
    a.client().accepted("party_b", "psi:0", b"payload")
    return address


def promtool(*arguments, input=None):
    program = shutil.which("promtool")
    assert program, "no promtool; on Debian: apt-get install prometheus (scripts/test does that)"
    done = subprocess.run([program, *arguments], input=input, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"promtool {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}"


def families(text):
    """Metrics by their name in OpenMetrics, and the names of all samples that they may have."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    suffixes = {"counter": ["_total"], "info": ["_info"], "histogram": ["_bucket", "_sum", "_count"]}
    return {name: [name + suffix for suffix in suffixes.get(kind, [""])] for name, kind in types.items()}


def named_in(expressions):
    return {name for expression in expressions for name in NAME.findall(expression)}


def test_a_scrape_is_openmetrics_and_names_no_message(http_address):
    text, headers = fetch(http_address, "/metrics")
    assert headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert text.endswith("# EOF\n")
    assert "psi:0" not in text
    assert len(families(text)) > 50


def test_what_happened_is_counted(http_address):
    delivered = 'petnet_delivered_messages_total{peer="party_b"} 1'
    harness.until("the delivery is counted", lambda: delivered in fetch(http_address, "/metrics")[0])
    text, _ = fetch(http_address, "/metrics")
    for line in (
        "petnet_accepted_messages_total 1",
        "petnet_accepted_bytes_total 7",
        'petnet_delivered_bytes_total{peer="party_b"} 7',
        'petnet_pending_messages{peer="party_b"} 0.0',
        "petnet_accept_seconds_count 1",
        "petnet_serving 1.0",
    ):
        assert f"{line}\n" in text, f"{line} is not in:\n{text}"


def test_promtool_finds_nothing_to_complain_about(http_address):
    text, headers = fetch(http_address, "/metrics", Accept="text/plain")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    promtool("check", "metrics", input=text)
    promtool("check", "rules", MONITORING / "alerts.yaml")
    promtool("test", "rules", MONITORING / "alerts-test.yaml")


def test_dashboard_alarms_and_documentation_name_metrics_that_exist(http_address):
    import yaml

    text, _ = fetch(http_address, "/metrics")
    samples = {sample for names in families(text).values() for sample in names}
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    shown = named_in(target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", []))
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
    alarmed = named_in(rule["expr"] for rule in rules)
    assert len(shown) > 30 and len(alarmed) > 10, "this check does not find the expressions any more"
    assert (shown | alarmed) - samples == set()

    operations = (harness.ROOT / "docs" / "operations.md").read_text()
    documented = set(re.findall(r"^\| `([a-z_]+)`", operations, re.M))
    names = {sampled[0] if len(sampled) == 1 else name for name, sampled in families(text).items()}
    assert {name for name in documented if NAME.fullmatch(name)} == names
    for rule in rules:
        assert f"| `{rule['alert']}` |" in operations, f"docs/operations.md does not say what to do about {rule['alert']}"


def test_probes_tell_alive_from_ready(http_address):
    assert fetch(http_address, "/healthz")[0] == "alive\n"
    assert fetch(http_address, "/readyz")[0] == "serving\n"
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetch(http_address, "/status.json", Host="evil.example")
    assert refused.value.code == 421
