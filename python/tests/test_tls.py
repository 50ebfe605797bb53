"""TLS, as PETNet's client takes it and with a folder."""

import pytest

import petnet
import petnet.aio
from harness import make_certificates


@pytest.fixture
def certs(tmp_path):
    return {party: make_certificates(tmp_path / "certs" / party, party) for party in ("party_a", "party_b")}


def test_both_sides_prove_who_they_are(fresh, certs, monkeypatch):
    pair = fresh(certs=certs)
    pem = [(certs["party_a"] / name).read_bytes() for name in ("ca.crt", "client.key", "client.crt")]
    paths = [certs["party_b"] / name for name in ("ca.crt", "client.key", "client.crt")]
    with petnet.Client("party_a", pair.a.address, *pem) as a, petnet.Client("party_b", pair.b.address, *paths) as b:
        assert a.send("party_b", "m", b"secret")
        assert b.recv("m", timeout=30, sender="party_a") == b"secret"
    with petnet.Client.from_folder("party_b", certs["party_b"], pair.b.address, server_name="party_b") as b:
        assert b.recv("m", timeout=30) == b"secret"
    monkeypatch.setenv("PETNET_ADDR", pair.b.address)
    monkeypatch.setenv("PETNET_CERTS", str(certs["party_b"]))
    with petnet.Client.from_environment() as b:
        assert b.recv("m", timeout=30) == b"secret"
    # A program of another party reads nothing, and one that speaks plaintext gets nowhere.
    stranger = [*paths[:1], certs["party_a"] / "client.key", certs["party_a"] / "client.crt"]
    with petnet.Client("party_a", pair.b.address, *stranger) as b, pytest.raises(petnet.AccessDenied):
        b.recv("m", timeout=1)
    with petnet.Client("party_a", pair.b.address, patience=0.2) as b, pytest.raises(petnet.Unavailable):
        b.recv("m")


def test_half_of_tls_is_a_mistake_and_not_plaintext():
    for client in (petnet.Client, petnet.aio.Client):
        with pytest.raises(ValueError, match="only some of them"):
            client("party_a", "localhost:1235", b"-----BEGIN CERTIFICATE-----")


@pytest.mark.parametrize("empty", [b"", ""])
def test_empty_certificates_are_a_mistake_and_not_plaintext(empty, tmp_path):
    for name in ("ca.crt", "client.key", "client.crt"):
        (tmp_path / name).touch()
    for client in (petnet.Client, petnet.aio.Client):
        with pytest.raises(ValueError, match="empty"):
            client("party_a", "localhost:1235", empty, empty, empty)
        with pytest.raises(ValueError, match="empty"):
            client.from_folder("party_a", tmp_path)
        with pytest.raises(ValueError, match="empty"):
            client("party_a", "localhost:1235", *[tmp_path / name for name in ("ca.crt", "client.key", "client.crt")])
