"""PETNet's way of using Redis, as a yardstick: an asyncio gRPC server with a blocking Redis client, one SET a message.

usage: petnet_way.py LISTEN_PORT REDIS_PORT PROTOS

Less than PETNet itself does, which calls the other party's gateway first: this is what keeping a message costs that way
at best. It ends when its standard input does.
"""

import asyncio
import importlib
import os
import sys
import tempfile
import threading

import grpc
import redis
from grpc_tools import protoc

# As in PETNet: a message is kept for an hour.
TTL = 3600


def stubs(protos):
    """The generated modules of petnet.simple.v1."""
    with tempfile.TemporaryDirectory(prefix="petnet-way-") as folder:
        arguments = ["protoc", f"-I{protos}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        if protoc.main([*arguments, "petnet/simple.proto"]) != 0:
            raise SystemExit("the protocol does not compile")
        sys.path.insert(0, folder)
        return [importlib.import_module(f"petnet.simple_{kind}") for kind in ("pb2", "pb2_grpc")]


async def serve(port, redis_port, protos):
    pb, generated = stubs(protos)
    store = redis.Redis(host="127.0.0.1", port=redis_port)
    store.ping()

    class Servicer(generated.SimpleRequestServerServicer):
        async def ClientSimpleSend(self, request, context):
            # It blocks, so that one message is kept at a time: that is the point.
            store.set(request.message_id, request.payload, ex=TTL)
            return pb.Response(success=True)

        async def ClientSimpleRecv(self, request, context):
            return pb.Response(success=True, payload=store.get(request.message_id))

    server = grpc.aio.server()
    generated.add_SimpleRequestServerServicer_to_server(Servicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
