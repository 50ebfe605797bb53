"""What /status.json says of a gateway in trouble: the awkward values that no test can bring about for real."""

import math

NOW = 1_700_000_000_000
DAY = 86_400
# Names that would be markup, if they were taken for it.
HOSTILE = '<img src=x onerror="document.title=\'taken\'">'
SCRIPT = "</script><script>document.title='taken'</script>"


def peer(party, state, **values):
    nothing = dict(
        pending=0, pending_bytes=0, oldest_seconds=None, down_seconds=None, next_attempt_seconds=None, failed_attempts=0,
        last_error="", last_error_ms=None, last_delivery_ms=None, delivered_rate=0.0, in_flight=0, delivered=0,
        delivered_bytes=0, received=0, urls=[f"gateway.{state}.example:1235"],
    )
    return {"party": party, "state": state, **nothing, **values}


def history(samples=360):
    """An hour with an hour's swing, and a minute without syncs."""
    at = [NOW - (samples - 1 - sample) * 10_000 for sample in range(samples)]
    wave = lambda sample, height, pace: round(height * (1.2 + math.sin(sample / pace)) * (1 + 0.1 * math.sin(sample * 1.7)), 3)
    quiet = range(200, 206)
    p50 = [None if sample in quiet else (0.0005 if sample % 40 else 0.001) for sample in range(samples)]
    p99 = [None if sample in quiet else (0.0025 if sample % 23 else 0.05) for sample in range(samples)]
    return {
        "every_seconds": 10, "at_ms": at,
        "accepted": [wave(s, 320, 40) for s in range(samples)], "delivered": [wave(s, 290, 41) for s in range(samples)],
        "arrived": [wave(s, 120, 25) for s in range(samples)], "received": [wave(s, 110, 25) for s in range(samples)],
        "sync_p50": p50, "sync_p99": p99,
    }


def letter(sequence, message_id, party, reason, text):
    return {
        "sequence": sequence, "peer": party, "message_id": message_id, "len": 4096 * sequence, "reason": reason,
        "reason_text": text,
    }


def status():
    long = "connecting to gateway.down.example:1235: the certificate is of party_x, not of party_down; " * 3
    return {
        "now_ms": NOW,
        "status": {
            "party": "party_a", "version": "0.1.0", "started_ms": NOW - 9 * DAY * 1000, "uptime_seconds": 9 * DAY + 7200,
            "state": "poisoned", "state_reason": f"sync of /var/lib/petnet/log/12 failed: {HOSTILE}",
            "listen_addr": "[::]:1235", "http_addr": "127.0.0.1:1236", "tls": True,
            "certificates": [
                {"name": "server.crt", "expires_ms": NOW + 12 * DAY * 1000, "seconds_left": 12 * DAY + 60},
                {"name": "party_b", "expires_ms": NOW + 300 * DAY * 1000, "seconds_left": 300 * DAY},
                {"name": "party_gone", "expires_ms": NOW - 3 * DAY * 1000, "seconds_left": -3 * DAY},
            ],
            "store": {
                "engine": "embedded", "place": "/var/lib/petnet", "accepted_means": "on this disk, synced",
                "disk_bytes": 52 << 30, "used_bytes": 48 << 30, "limit_bytes": 79 << 30, "quota_bytes": 0, "disk_total_bytes": 200 << 30,
                "disk_free_bytes": 31 << 30, "segments": 812, "spare_segments": 4, "reclaimable_bytes": 3 << 30,
                "damaged": 2, "service_seconds": 9 * DAY, "syncs": 1000, "appends": 8400,
                "sync_p50_seconds": 0.0005, "sync_p99_seconds": 0.0025,
            },
            "peers": [
                peer("party_b", "delivering", pending=212, pending_bytes=3 << 20, oldest_seconds=1, delivered_rate=312.4,
                     in_flight=200, delivered=90_000),
                peer("party_down", "down", pending=1_000_000, pending_bytes=48 << 30, oldest_seconds=6 * DAY,
                     down_seconds=5 * DAY + 7200, next_attempt_seconds=21, failed_attempts=14_000, last_error=long,
                     last_error_ms=NOW - 9_000),
                peer("party_held", "paused", pending=17, pending_bytes=900, oldest_seconds=3700),
                peer("party_gone", "unknown", pending=3, pending_bytes=12, oldest_seconds=DAY, urls=[]),
                peer(HOSTILE, "idle", last_error=SCRIPT, last_error_ms=NOW - 3_600_000),
            ],
            "mailbox": {"messages": 12_345, "waiting": 42, "subscriptions": 7},
            "dead_letters": [
                {"reason": "expired", "messages": 120}, {"reason": "refused", "messages": 2}, {"reason": "damaged", "messages": 0},
            ],
            "process": {"resident_bytes": 182 << 20, "open_files": 143, "open_files_limit": 1_048_576, "connections": 38},
            "refused_reloads": [
                {"what": "party_file", "why": f"party.json: expected a list {HOSTILE}", "since_ms": NOW - 3_600_000},
            ],
            "rates": {"accepted": 300.0, "delivered": 312.4, "arrived": 110.0, "received": 105.0},
        },
        "dead_letters": [
            letter(122, "psi:round-7:" + "x" * 120, "party_down", "expired", "expired"),
            letter(121, HOSTILE, "party_b", "refused", f"the peer refused it: {SCRIPT}"),
            letter(120, "", "party_b", "refused", "the peer takes no message of this sender"),
        ],
        "history": history(),
    }
