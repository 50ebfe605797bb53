"""Messages and stubs of the gateway's wire: simple_pb2, health_pb2, mailbox_pb2, and their _grpc modules.

They are made from protos/petnet/*.proto when the package is built, and have the names that PETNet's own pb2 modules have: a
program that imported ``pb2.simple_pb2`` imports ``petnet.pb2.simple_pb2``. Both may be loaded at once.
"""
