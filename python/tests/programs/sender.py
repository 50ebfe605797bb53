"""Sends the numbers below COUNT on a channel, each with random bytes: a repetition with other bytes would show.

usage: sender.py ADDRESS STATE COUNT
"""

import os
import sys

import petnet

address, state, count = sys.argv[1:]
with petnet.Client("party_a", address) as client, petnet.Channel("numbers", "party_b", client, state=state) as channel:
    print("begins at", channel.sent, flush=True)
    for number in range(channel.sent, int(count)):
        channel.send(b"%d %s" % (number, os.urandom(8).hex().encode()))
