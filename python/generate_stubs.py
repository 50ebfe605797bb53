"""Makes petnet/pb2/NAME_pb2.py, NAME_pb2.pyi and NAME_pb2_grpc.py from protos/petnet/NAME.proto.

protoc reads the .proto files; what it says about them goes into modules of our own form instead of those that it would
write, for two reasons. Its modules only work with the protobuf runtime of their own age, and a program that moves here from
PETNet may hold an old one. And they put their names into the one pool of the process, where those of PETNet's own pb2
modules may be already: petnet.pb2 has a pool of its own (petnet/pb2/_load.py).
"""

import pathlib
import tempfile

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

NAMES = ("simple", "health", "mailbox")
HEAD = '"""{what} of petnet/{name}.proto. Made when the package was built: change that file, not this one."""\n\n'
FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {FIELD.TYPE_STRING: "str", FIELD.TYPE_BYTES: "bytes", FIELD.TYPE_BOOL: "bool"}
INTEGERS = {FIELD.TYPE_INT32, FIELD.TYPE_INT64, FIELD.TYPE_UINT32, FIELD.TYPE_UINT64, FIELD.TYPE_ENUM}


def generate(protos, target):
    """Writes the modules of all NAMES into the folder target."""
    for name, file in zip(NAMES, described(protos)):
        if file.dependency or file.enum_type or any(message.nested_type for message in file.message_type):
            raise SystemExit(f"petnet/{name}.proto has imports, nested messages or enums of its own: teach {__file__} these")
        (target / f"{name}_pb2.py").write_text(messages(name, file))
        (target / f"{name}_pb2.pyi").write_text(types_of_messages(name, file))
        (target / f"{name}_pb2_grpc.py").write_text(services(name, file))


def described(protos):
    """What protoc says about the files, in the order of NAMES."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "described"
        files = [f"petnet/{name}.proto" for name in NAMES]
        if protoc.main(["protoc", f"-I{protos}", f"--descriptor_set_out={out}", *files]) != 0:
            raise SystemExit(f"protoc cannot read {files} in {protos}")
        found = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file}
    return [found[name] for name in files]


def messages(name, file):
    return (
        HEAD.format(what="Messages", name=name)
        + "from petnet.pb2._load import load\n\n"
        + f"DESCRIPTOR = load({file.SerializeToString()!r}, globals())\n"
    )


def types_of_messages(name, file):
    lines = [
        HEAD.format(what="Types of the messages", name=name),
        "from collections.abc import Iterable, MutableSequence\n",
        "from typing import Any, ClassVar, Optional\n\n",
        "from google.protobuf.message import Message\n\n",
        "DESCRIPTOR: Any\n",
    ]
    for message in file.message_type:
        lines.append(f"\nclass {message.name}(Message):\n")
        for enum in message.enum_type:
            lines.append(f"    {enum.name}: ClassVar[Any]\n")
            lines += [f"    {value.name}: ClassVar[int]\n" for value in enum.value]
        fields = [(field, type_of(field)) for field in message.field]
        for field, kind in fields:
            lines.append(f"    {field.name}: {f'MutableSequence[{kind}]' if repeated(field) else kind}\n")
        arguments = "".join(
            f", {field.name}: Optional[{f'Iterable[{kind}]' if repeated(field) else kind}] = ..." for field, kind in fields
        )
        lines.append(f"    def __init__(self{', *' if fields else ''}{arguments}) -> None: ...\n")
        lines.append("    @classmethod\n")
        lines.append(f'    def FromString(cls, s: bytes) -> "{message.name}": ...\n')
    return "".join(lines)


def repeated(field):
    return field.label == FIELD.LABEL_REPEATED


def type_of(field):
    if field.type in INTEGERS:
        return "int"
    if field.type == FIELD.TYPE_MESSAGE:
        return f'"{field.type_name.rsplit(".", 1)[-1]}"'
    return SCALARS[field.type]


def services(name, file):
    lines = [
        HEAD.format(what="Stubs and servicers", name=name),
        "from typing import Any\n\n",
        "import grpc\n\n",
        f"from petnet.pb2 import {name}_pb2 as pb\n",
        "from petnet.pb2._load import serialized\n",
    ]
    for service in file.service:
        full = f"{file.package}.{service.name}"
        lines += [stub(full, service), servicer(full, service)]
    return "".join(lines)


def shape(method):
    return "_".join("stream" if streaming else "unary" for streaming in (method.client_streaming, method.server_streaming))


def local(type_name):
    return f"pb.{type_name.rsplit('.', 1)[-1]}"


def stub(full, service):
    text = f'\n\nclass {service.name}Stub:\n    """Calls {full} on a channel, of grpc or of grpc.aio."""\n\n'
    text += "    def __init__(self, channel: Any) -> None:\n"
    for method in service.method:
        text += (
            f"        self.{method.name}: Any = channel.{shape(method)}(\n"
            f'            "/{full}/{method.name}",\n'
            f"            request_serializer=serialized,\n"
            f"            response_deserializer={local(method.output_type)}.FromString,\n"
            f"        )\n"
        )
    return text


def servicer(full, service):
    text = f'\n\nclass {service.name}Servicer:\n    """Serves {full}: override what it is to answer."""\n'
    for method in service.method:
        text += (
            f"\n    def {method.name}(self, request: Any, context: Any) -> Any:\n"
            f'        context.abort(grpc.StatusCode.UNIMPLEMENTED, "{method.name} is not served here")\n'
        )
    text += f"\n\ndef add_{service.name}Servicer_to_server(servicer: {service.name}Servicer, server: Any) -> None:\n"
    text += f'    """Adds {full} to a server."""\n    handlers = {{\n'
    for method in service.method:
        text += (
            f'        "{method.name}": grpc.{shape(method)}_rpc_method_handler(\n'
            f"            servicer.{method.name},\n"
            f"            request_deserializer={local(method.input_type)}.FromString,\n"
            f"            response_serializer=serialized,\n"
            f"        ),\n"
        )
    text += "    }\n"
    return text + f'    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("{full}", handlers),))\n'
