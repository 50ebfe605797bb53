"""MPyC over PETNet gateways: what its parties write to each other goes through channels instead of TCP connections.

MPyC expects a connection that lasts as long as its computation. A channel is one that also lasts when gateways are killed,
restarted, or not reachable for a while: calls wait and are tried again, and nothing comes twice or out of order.
"""

import asyncio
import contextlib
import time

from mpyc.asyncoro import MessageExchanger

#: Says that nothing more comes. MPyC itself never sends an empty message.
END = b""


class ChannelTransport(asyncio.Transport):
    """The connection of one MessageExchanger of MPyC. What is written while a message is on its way makes up the next."""

    def __init__(self, channel, exchanger, failed):
        super().__init__()
        self._channel = channel
        self._exchanger = exchanger
        self._failed = failed
        self._written = bytearray()
        self._changed = asyncio.Event()
        self._closing = False
        self._running = asyncio.ensure_future(self._run())

    def write(self, data):
        self._written += data
        self._changed.set()

    def writelines(self, chunks):
        self.write(b"".join(chunks))

    def is_closing(self):
        return self._closing

    def close(self):
        self._closing = True
        self._changed.set()

    def abort(self):
        self._running.cancel()

    async def closed(self):
        await asyncio.wait([self._running])

    async def _run(self):
        try:
            await asyncio.gather(self._send(), self._receive())
        except Exception as error:
            self._failed(error)
        else:
            self._exchanger.connection_lost(None)

    async def _send(self):
        while self._written or not self._closing:
            await self._changed.wait()
            self._changed.clear()
            if self._written:
                message = bytes(self._written)
                self._written.clear()
                await self._channel.send(message)
        await self._channel.send(END)

    async def _receive(self):
        while (message := await self._channel.recv()) != END:
            self._exchanger.data_received(message)
        self.close()


@contextlib.asynccontextmanager
async def through_gateways(mpc, channels):
    """As ``async with mpc``, but over channels: {index of the other MPyC party: petnet.aio.Channel}."""
    computation = asyncio.current_task()
    failures = []

    def failed(error):
        failures.append(error)
        computation.cancel()

    for party in mpc.parties:
        party.protocol = asyncio.get_running_loop().create_future() if party.pid == mpc.pid else None
    transports = []
    try:
        for index, channel in channels.items():
            # As with TCP: of two parties, the one with the smaller index says who it is.
            exchanger = MessageExchanger(mpc, index if mpc.pid < index else None)
            transports.append(ChannelTransport(channel, exchanger, failed))
            exchanger.connection_made(transports[-1])
        await mpc.parties[mpc.pid].protocol
        mpc.start_time = time.time()
        yield mpc
        await mpc.shutdown()
        for transport in transports:
            await transport.closed()
    except asyncio.CancelledError:
        if failures:
            raise failures[0] from None
        raise
    finally:
        for transport in transports:
            transport.abort()
