"""Builds the CPU kernel where there is a C compiler; everything else is in setup.cfg.

The kernel is a plain shared library, opened with ctypes: it needs no headers of torch or Python,
and one wheel serves every Python 3. Without it the pure-torch path gives the same results.
"""

from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # an old setuptools, by hand: it builds the library in place, but no wheel
    bdist_wheel = object

KERNEL = Extension(
    "statescan.kernels.libstatescan_cpu",
    ["statescan/kernels/_c/library.c"],
    depends=[str(p) for p in Path("statescan/kernels").rglob("*.h")],
    extra_compile_args=["-O3", "-std=gnu11", "-Wno-psabi"],
    optional=True,
)


class BuildLibrary(build_ext):
    """Builds a library that is no Python module: a plain name, and no init function."""

    def get_ext_filename(self, fullname):
        """Path of the library, without the tag of a Python version."""
        return fullname.replace(".", "/") + ".so"

    def get_export_symbols(self, ext):
        """No init function to export."""
        return ext.export_symbols


class AnyPythonWheel(bdist_wheel):
    """A wheel for one platform and every Python 3."""

    def get_tag(self):
        """Tag of the wheel: py3-none-platform."""
        return "py3", "none", super().get_tag()[2]


COMMANDS = {"build_ext": BuildLibrary}
if bdist_wheel is not object:
    COMMANDS["bdist_wheel"] = AnyPythonWheel

setup(ext_modules=[KERNEL], cmdclass=COMMANDS)
