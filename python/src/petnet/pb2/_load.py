"""Message classes from what protoc said about a .proto file.

The pool is our own: the process may have other modules with the same message names (PETNet's own pb2), and protobuf
refuses a name that comes a second time, from another file, into the same pool.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory

_POOL = descriptor_pool.DescriptorPool()


def load(described: bytes, module: dict[str, Any]) -> Any:
    """Puts the message classes of a serialized FileDescriptorProto into a module, and returns its descriptor."""
    file = _POOL.AddSerializedFile(described)
    for name, descriptor in file.message_types_by_name.items():
        message = message_factory.GetMessageClass(descriptor)
        # For repr and pickle: the factory does not know where it will be found.
        message.__module__ = module["__name__"]
        module[name] = message
    return file


def serialized(message: Any) -> bytes:
    """The bytes of a message, also of one of other modules with the same fields."""
    return bytes(message.SerializeToString())
