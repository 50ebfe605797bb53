"""Makes the stubs of the .proto files when the package is built; everything else is in pyproject.toml.

The .proto files live in the repository beside this folder. A source distribution carries its own copy of them, so that it
builds anywhere.
"""

import pathlib
import shutil
import sys

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
# Setuptools does not put this folder there.
sys.path.insert(0, str(HERE))

import generate_stubs  # noqa: E402


def protos():
    """The folder that holds petnet/*.proto."""
    for folder in (HERE / "protos", HERE.parent / "protos"):
        if all((folder / "petnet" / f"{name}.proto").is_file() for name in generate_stubs.NAMES):
            return folder
    sys.exit("petnet: no protos/petnet/*.proto here or in the folder above; build from a clone or a source distribution")


class BuildWithStubs(build_py):
    """Copies the package, then adds the stubs: beside the copy, or, for an editable installation, in the source."""

    def run(self):
        # What an earlier build left there would be packed, too.
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        root = HERE / "src" if self.editable_mode else pathlib.Path(self.build_lib)
        generate_stubs.generate(protos(), root / "petnet" / "pb2")

    def get_source_files(self):
        return [name for name in super().get_source_files() if "_pb2" not in name]


class SdistWithProtos(sdist):
    """A source distribution with the .proto files inside."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        target = pathlib.Path(base_dir) / "protos" / "petnet"
        target.mkdir(parents=True, exist_ok=True)
        for name in generate_stubs.NAMES:
            shutil.copyfile(protos() / "petnet" / f"{name}.proto", target / f"{name}.proto")


setup(cmdclass={"build_py": BuildWithStubs, "sdist": SdistWithProtos})
