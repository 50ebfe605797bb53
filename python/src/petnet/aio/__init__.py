"""The asyncio twin: Client and Channel with the names, arguments and errors of the blocking ones.

    async with petnet.aio.Client("party_a") as client:
        await client.send("party_b", "greeting", b"hello")
        answer = await client.recv("answer", timeout=60)

Cancelling a task that waits is safe. A send that is cancelled may have been accepted or not.
"""

from petnet.aio.channel import Channel
from petnet.aio.client import Client

#: The name that it has in PETNet.
PETNetClient = Client

__all__ = ["Channel", "Client", "PETNetClient"]
