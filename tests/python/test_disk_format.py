"""A reader that knows docs/disk-format.md and nothing else reads every byte that gateways wrote."""

import struct
import subprocess
import zlib

import harness

PAGE, HEADER = 4096, 40
MESSAGE, PART, COMMIT, SETTLE, DEAD, READ, NAMED = range(1, 8)


class Fields:
    """Takes little-endian fields from the front of bytes."""

    def __init__(self, content):
        self.content, self.at = content, 0

    def take(self, count):
        assert self.at + count <= len(self.content)
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def numbers(self, *sizes):
        return tuple(self.number(size) for size in sizes)

    def text(self):
        return self.take(self.number(2)).decode()

    def end(self):
        assert self.at == len(self.content), f"{len(self.content) - self.at} bytes are not drawn"


def checked_text(path, names):
    text = path.read_bytes()
    lines = text.decode().splitlines()
    assert [line.split(" ", 1)[0] for line in lines] == names
    assert int(lines[-1].split()[1], 16) == zlib.crc32(text[: text.rindex(b"crc ")])
    return dict(line.split(" ", 1) for line in lines)


def segment_frames(path, store_id):
    """(place, kind, sequence, fields, payload) of every frame."""
    content = path.read_bytes()
    assert content[:8] == b"PETNSEG1"
    version, store, lane, segment, size, crc = struct.unpack_from("<I16sBIQI", content, 8)
    assert (version, store[::-1].hex(), lane, size) == (1, store_id, int(path.name.startswith("bulk")), len(content))
    assert path.name.endswith(f"-{segment:010}.seg") and crc == zlib.crc32(content[:41]) and not any(content[45:PAGE])
    at = PAGE
    while at + HEADER <= len(content) and any(content[at : at + HEADER]):
        header = content[at : at + HEADER]
        magic, kind, zero, fields, body, body_crc, sequence, _, none, own, crc = struct.unpack("<4sBBHIIQIIII", header)
        if magic != b"PNF1":
            # What a write left to fill its page.
            at += 8
            continue
        assert (zero, none, own) == (0, 0, segment) and crc == zlib.crc32(header[:36] + struct.pack("<I", at))
        data = content[at + HEADER : at + HEADER + body]
        assert zlib.crc32(data) == body_crc
        end = at + HEADER + body
        assert not any(content[end : end + -end % 8])
        yield (segment, at), kind, sequence, Fields(data[:fields]), data[fields:]
        at = end + -end % 8


def message(fields):
    kind, party, message_id = fields.number(1), fields.text(), fields.text()
    started, _, number, low_water, ordinal, length, first = fields.numbers(8, 8, 8, 8, 4, 8, 4)
    key, checksum = None, None
    if fields.at < len(fields.content):
        key, checksum = fields.take(16), fields.number(4)
    fields.end()
    assert kind in (0, 1, 2) and started > 0 and number > low_water - 1 and (kind == 0 or key is None)
    return party, message_id, length, first, key, checksum


def log_of(folder):
    """Messages by id, with their payloads, and how many frames of each kind there are."""
    store_id = checked_text(folder / "FORMAT", ["petnet-store", "id", "key", "crc"])["id"]
    files = sorted(path for path in (folder / "log").iterdir() if not path.name.startswith("free"))
    frames = [frame for path in files for frame in segment_frames(path, store_id)]
    parts = {place: (sequence, payload) for place, kind, sequence, _, payload in frames if kind == PART}
    found, counts, keys = {}, dict.fromkeys(range(1, 7), 0), {}
    for _, kind, sequence, fields, payload in frames:
        counts[kind] += 1
        if kind == MESSAGE:
            party, message_id, length, first, key, checksum = message(fields)
            assert (length, first) == (len(payload), 0) and checksum in (None, zlib.crc32(payload))
            found[party, message_id] = payload
            keys |= {key: sequence} if key else {}
        elif kind == COMMIT:
            party, message_id, length, first, key, checksum = message(fields)
            keys |= {key: sequence} if key else {}
            slices, whole = Fields(payload), b""
            of = slices.number(8) if len(payload) % 12 == 8 else sequence
            while slices.at < len(payload):
                segment, offset, size = slices.numbers(4, 4, 4)
                of_part, data = parts[segment, offset]
                assert of_part == of and len(data) == size <= 262_144 and (whole or segment == first)
                whole += data
            assert len(whole) == length and checksum in (None, zlib.crc32(whole))
            found[party, message_id] = whole
        elif kind in (SETTLE, DEAD):
            key, _, offset = fields.numbers(16, 4, 4)
            assert key and offset >= PAGE and not payload
            assert fields.number(1) in ((0, 1) if kind == SETTLE else (0, 1, 2, 3))
            if kind == DEAD:
                assert fields.text()
            fields.end()
        elif kind == READ:
            reads = []
            while fields.at < len(fields.content):
                key, of, _ = fields.numbers(16, 8, 4)
                assert key and of
                reads.append(of)
            assert max(reads) == sequence and not payload
        elif kind == NAMED:
            key, _, _, _, newest = fields.numbers(16, 8, 4, 4, 8)
            fields.end()
            assert newest >= sequence and not payload
            keys |= {key: sequence}
    return store_id, found, counts, keys


def check_checkpoint(path, store_id, keys):
    content = path.read_bytes()
    if not any(content[:44]):
        return 0
    assert content[:8] == b"PETNCHK1" and content[8:24][::-1].hex() == store_id
    generation, length, crc = struct.unpack_from("<QQI", content, 24)
    body = Fields(content[44 : 44 + length])
    assert crc == zlib.crc32(content[:40] + body.content) and path.name == f"CHECKPOINT.{generation % 2}"
    body.numbers(4, 8, 4, 8, 4, 4, 4, 4)
    parties = [body.text() for _ in range(body.number(4))]
    for _ in range(body.number(4)):
        body.numbers(8, 8)
    for _ in range(body.number(4)):
        party, _, _ = body.numbers(2, 4, 8)
        assert party <= len(parties)
        for _ in range(body.number(4)):
            *_, low_water = body.numbers(8, 8, 4, 8, 8)
            for _ in range(body.number(4)):
                first, end = body.numbers(8, 8)
                assert low_water <= first < end
    for _ in range(body.number(4)):
        _, lane, size, _, needed, _, _ = body.numbers(4, 1, 4, 4, 1, 4, 8)
        assert lane in (0, 1) and size >= 1 << 20 and needed in (0, 1)
        body.take(body.number(4))
    for _ in range(body.number(4)):
        assert body.number(2) <= len(parties) and all(body.numbers(8, 8))
    last = 0
    for _ in range(body.number(4)):
        key, (sequence, *_) = body.take(16), body.numbers(8, 8, 4, 4)
        assert keys[key] == sequence > last
        last = sequence
    body.end()
    return generation


def test_every_byte_of_a_data_folder_is_as_the_page_draws_it(make_pair, tmp_path):
    a, b = make_pair(MAX_MESSAGE_BYTES="2MiB")
    expected = {"empty": b"", "ü" * 300: b"small", "slices": bytes(range(256)) * 2500}
    for name, payload in expected.items():
        a.client().accepted("party_b", name, payload)
    streamed = bytes(reversed(range(256))) * 20_000
    (tmp_path / "file").write_bytes(streamed)
    command = [harness.binary(), "send", "--gateway", a.address, "--to", "party_b", "--id", "streamed", tmp_path / "file"]
    subprocess.run(command, check=True, capture_output=True)
    expected["streamed"] = streamed
    for name, payload in expected.items():
        shown = ["mailbox", "show", name, "-o", tmp_path / "out", "--data-dir", b.settings["DATA_DIR"]]
        harness.until(name, lambda: subprocess.run([harness.binary(), *shown], capture_output=True).returncode == 0)
        (tmp_path / "out").unlink()
    subprocess.run([harness.binary(), "recv", "--gateway", b.address, "--id", "slices"], check=True, capture_output=True)
    for gateway in (a, b):
        assert gateway.terminate() == 0
    for folder, peer in ((tmp_path / "party_a", "party_b"), (tmp_path / "party_b", "party_a")):
        store_id, found, counts, keys = log_of(folder)
        assert found == {(peer, name): payload for name, payload in expected.items()}
        assert counts[MESSAGE] == 2 and counts[COMMIT] == 2 and counts[PART] > 20
        assert len(keys) == (peer == "party_b"), "the command line names its sends"
        assert counts[READ] == (1 if peer == "party_a" else 0)
        assert counts[SETTLE] == (len(expected) if peer == "party_b" else 0)
        assert max(check_checkpoint(folder / f"CHECKPOINT.{number}", store_id, keys) for number in (0, 1)) > 0
