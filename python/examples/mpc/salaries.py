"""One party of a computation: how many salaries of all parties together reach each of some thresholds, and their mean.

Every party gives its own salaries as secret shares. Nothing is opened but the counts and the sum.

usage: salaries.py -M PARTIES -I INDEX --parties party_a,party_b --topic TOPIC --state FOLDER --salaries 3100,4700,...
(-M and -I are MPyC's; the gateway is PETNET_ADDR, and PETNET_CERTS its certificates)
"""

import argparse
import contextlib
import pathlib

from mpyc.runtime import mpc

import petnet.aio
from petnet_mpyc import through_gateways

THRESHOLDS = range(2000, 8000, 500)
#: Seconds for which a gateway may be down.
PATIENCE = 600


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--parties", type=lambda text: text.split(","), required=True, help="party ids, by MPyC's index")
    parser.add_argument("--topic", required=True, help="another one for each run, the same for all parties")
    parser.add_argument("--state", type=pathlib.Path, required=True, help="folder of this party's channels")
    parser.add_argument("--salaries", type=lambda text: [int(one) for one in text.split(",")], required=True)
    return parser.parse_args()


async def compute(salaries):
    secret = mpc.SecInt(32)
    everybodys = [one for of_one in mpc.input([secret(salary) for salary in salaries]) for one in of_one]
    for threshold in THRESHOLDS:
        reached = mpc.sum([salary >= threshold for salary in everybodys])
        print(f"at least {threshold}: {await mpc.output(reached)}", flush=True)
    total = await mpc.output(mpc.sum(everybodys))
    print(f"mean: {total / len(everybodys):.2f}", flush=True)


async def main():
    given = arguments()
    me = given.parties[mpc.pid]
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(petnet.aio.Client.from_environment(me, patience=PATIENCE))
        channels = {}
        for index, party in enumerate(given.parties):
            if party != me:
                state = given.state / f"{given.topic}@{party}"
                channel = petnet.aio.Channel(given.topic, party, client, state=state, release=True)
                channels[index] = await stack.enter_async_context(channel)
        await stack.enter_async_context(through_gateways(mpc, channels))
        await compute(given.salaries)


if __name__ == "__main__":
    mpc.run(main())
