"""The package as it is installed: by one command, from a source distribution, with types."""

import os
import pathlib
import subprocess
import sys
import tarfile
import venv
import zipfile

import grpc
import pytest

import petnet

PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A source distribution, unpacked far from the repository, and the wheel that is built from it there."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder, PACKAGE)
    (packed,) = folder.glob("petnet-*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(folder)
    (unpacked,) = (path for path in folder.glob("petnet-*") if path.is_dir())
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, unpacked)
    (built,) = folder.glob("petnet-*.whl")
    return built


def test_a_wheel_from_a_source_distribution_works_in_an_environment_of_its_own(wheel, tmp_path):
    venv.create(tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    # What it depends on is taken from here: whether PyPI has it is not ours to test.
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel)
    libraries = pathlib.Path(grpc.__file__).parents[1]
    program = "import petnet, petnet.aio, petnet.pb2.mailbox_pb2_grpc; print(petnet.__file__); petnet.Client('party_a')"
    path = run(python, "-c", f"import sys; sys.path.append({str(libraries)!r}); {program}", cwd=tmp_path)
    assert path.startswith(str(tmp_path / "clean"))


def test_the_wheel_has_stubs_types_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in ("simple", "health", "mailbox"):
        assert {f"petnet/pb2/{name}_pb2.py", f"petnet/pb2/{name}_pb2.pyi", f"petnet/pb2/{name}_pb2_grpc.py"} <= names
    assert "petnet/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"petnet", f"petnet-{wheel.name.split('-')[1]}.dist-info"}


def test_what_is_installed_is_what_is_here():
    """Else the other tests test something else."""
    installed = pathlib.Path(petnet.__file__).parent
    for source in (PACKAGE / "src" / "petnet").rglob("*.py"):
        relative = source.relative_to(PACKAGE / "src" / "petnet")
        assert (installed / relative).read_bytes() == source.read_bytes(), f"{relative}: pip install {PACKAGE} again"


def test_types_are_complete(tmp_path):
    (tmp_path / "program.py").write_text(
        "import petnet\n"
        'with petnet.Client("a") as client, petnet.Channel("t", "b", client) as channel:\n'
        '    sent: bool = client.send("b", "m", b"x")\n'
        '    received: bytes = client.recv("m", timeout=1.5)\n'
        '    length: int = client.recv_stream("m", "file")\n'
        "    payload: bytes = channel.recv()\n"
    )
    cache = {"MYPY_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "mypy", "--strict", "-p", "petnet", "-p", "program"]
    assert "Success" in run(*command, cwd=tmp_path, env={**os.environ, **cache})
