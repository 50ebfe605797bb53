"""The status page in a real browser: what it shows of a gateway in trouble, and that nothing gets out of or into it."""

import harness
import pytest
import status_example
from browser import Browser

PHONE, DESK = (360, 740), (1200, 900)
TAKEN = "document.title === 'taken'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture
def page(browser):
    """A fresh page of usual size."""
    browser.fulfil.clear()
    browser.command("Fetch.disable")
    browser.size(*DESK)
    browser.scheme("light")
    yield browser
    assert browser.complaints() == []


@pytest.fixture
def a(gateways, tmp_path):
    """party_a, with party_b up and taking small messages only, and party_c down."""
    ports = dict(zip(("party_a", "party_b", "party_c"), harness.free_ports(3)))
    party_file = harness.write_party_file(tmp_path / "party.json", ports)
    gateways("party_b", ports["party_b"], party_file, MAX_MESSAGE_BYTES="1KiB")
    address = f"127.0.0.1:{harness.free_ports(1)[0]}"
    gateway = gateways("party_a", ports["party_a"], party_file, HTTP_LISTEN_ADDR=address)
    gateway.url = f"http://{address}/"
    return gateway


def shown(page, url):
    page.open(url)
    page.until("!document.getElementById('main').hidden")


def ask_again(page):
    """As when the reader comes back to the page: it does not wait for its next refresh."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def rows(page, table):
    """Cells of each row, by what stands in the first."""
    cells = page.evaluate(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    )
    return {row[0].split("\n")[0]: row for row in cells}


def test_trouble_is_shown_as_it_comes(a, page):
    shown(page, a.url)
    assert page.text("#party") == "party_a"
    assert page.text("#state") == "serving"
    assert page.text("#tile-pending b") == "0"
    client = a.client()
    client.accepted("party_b", "small", b"x")
    client.accepted("party_b", "psi:too-large", b"x" * 4096)
    for number in range(3):
        client.accepted("party_c", f"waits:{number}", b"x" * 1000)

    # Without a reload: the page asks again by itself.
    page.until("document.querySelector('#tile-pending b').innerText === '3'")
    page.until("document.querySelector('#tile-dead b').innerText === '1'")
    page.until("document.querySelector('#tile-down b').innerText === '1 of 2'")
    pending = lambda: {party: row[2] for party, row in rows(page, "peers").items()}
    harness.until("what is pending for each", lambda: pending() == {"party_b": "0", "party_c": "3"})
    peers = rows(page, "peers")
    assert peers["party_c"][1].startswith("down"), peers
    assert peers["party_c"][3] == "2.9 KiB" and peers["party_c"][4] != "–" and peers["party_c"][6] != "–", peers
    assert page.text("#refused") == ""
    assert page.text("#dead-counts").startswith("refused: 1")
    letter = rows(page, "dead")["psi:too-large"]
    assert letter[1] == "party_b" and letter[2] == "4.0 KiB" and letter[3].startswith("refused"), letter
    assert "free" in page.text("#disk")
    assert page.text("#certificates") == "None: traffic is not encrypted."
    assert "MiB" in page.text("#process")
    # The first sample comes within ten seconds.
    for line in ("#throughput path[data-line=accepted]", "#sync path.one[data-line]"):
        page.until(f"document.querySelector('{line}').getAttribute('d').length > 0")
    assert set(page.requests()) == {a.url, f"{a.url}status.json"}, "the page asks elsewhere"


def test_values_of_any_kind_are_shown_as_text(a, page):
    page.instead("/status.json", status_example.status())
    shown(page, a.url)
    peers = rows(page, "peers")
    assert [peers[name][1].split("\n")[0] for name in ("party_b", "party_down", "party_held", "party_gone")] == [
        "delivering", "down", "paused", "unknown",
    ]
    assert peers["party_down"][2:5] == ["1,000,000", "48.0 GiB", "6 d"]
    assert peers[status_example.HOSTILE][6].startswith(status_example.SCRIPT)
    letters = rows(page, "dead")
    assert status_example.HOSTILE in letters and len(letters) == 3
    assert page.text("#state") == "poisoned" and status_example.HOSTILE in page.text("#reason")
    refused = page.text("#refused")
    assert refused.startswith("The party file on the disk was refused, since ") and status_example.HOSTILE in refused
    assert page.text("#dead-counts").startswith("expired: 120")
    certificates = page.text("#certificates")
    assert "▲ 12 days left" in certificates and "300 days left" in certificates and "■ expired" in certificates
    for plot, lines in (("throughput", 4), ("sync", 2)):
        drawn = page.evaluate(f"[...document.querySelectorAll('#{plot} path[data-line]')].map(path => path.getAttribute('d').length)")
        assert len(drawn) == lines and min(drawn) > 1000, drawn
        assert page.evaluate(f"document.querySelector('#{plot} svg[role=img]').getAttribute('aria-label').length") > 20
    # A gap, where for a minute nothing was synced.
    assert page.evaluate("document.querySelector('#sync path.one[data-line]').getAttribute('d').match(/M/g).length") == 2
    assert not page.evaluate(TAKEN) and page.evaluate("document.images.length + document.scripts.length") == 1


def test_it_is_readable_on_a_phone_and_in_the_dark(a, page, tmp_path):
    page.instead("/status.json", status_example.status())
    pictures = {}
    for width, height in (DESK, PHONE):
        for scheme in ("light", "dark"):
            page.size(width, height)
            page.scheme(scheme)
            shown(page, a.url)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"it scrolls sideways: {wide} > {width}"
            ground, ink = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
            assert (brightness(ground) > brightness(ink)) == (scheme == "light")
            pictures[width, scheme] = tmp_path / f"{width}-{scheme}.png"
            page.screenshot(pictures[width, scheme])
    assert len({picture.read_bytes() for picture in pictures.values()}) == 4


def brightness(color):
    return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))


def test_it_says_since_when_it_is_stale_and_recovers(a, page):
    page.instead("/status.json", status_example.status())
    shown(page, a.url)
    assert page.evaluate("document.getElementById('stale').hidden")
    page.instead("/status.json", None)
    ask_again(page)
    page.until("!document.getElementById('stale').hidden")
    assert page.text("#stale").startswith("Stale since ")
    assert page.text("#party") == "party_a", "what was known is still there"
    page.instead("/status.json", status_example.status())
    ask_again(page)
    page.until("document.getElementById('stale').hidden")


def test_without_javascript_it_says_where_the_facts_are(a, page):
    page.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(a.url)
        assert "JavaScript, which is off here" in page.text("body")
    finally:
        page.command("Emulation.setScriptExecutionDisabled", value=False)


def test_a_page_that_is_open_does_not_hold_up_the_shutdown(a, page):
    shown(page, a.url)
    assert a.terminate() == 0
    ask_again(page)
    page.until("!document.getElementById('stale').hidden")
