"""Writes what comes on a channel to a file, a line for each message; a line that is there already is not written again.

usage: reader.py ADDRESS STATE COUNT FILE
"""

import os
import sys

import petnet

address, state, count, path = sys.argv[1:]
with petnet.Client("party_b", address) as client, petnet.Channel("numbers", "party_a", client, state=state) as channel:
    with open(path, "a+") as file:
        file.seek(0)
        lines = file.read().count("\n")
        assert lines in (channel.received, channel.received + 1), (lines, channel.received)
        print("begins at", channel.received, flush=True)
        while channel.received < int(count):
            with channel.receiving(timeout=60) as payload:
                if channel.received == lines:
                    # One write: a line is there as a whole or not at all.
                    os.write(file.fileno(), payload + b"\n")
                    os.fsync(file.fileno())
                    lines += 1
