"""Build the consumer: python setup.py build_ext --inplace."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import pagemig

setup(
    name="consumer",
    ext_modules=cythonize(
        [Extension("consumer", ["consumer.pyx"], include_dirs=[pagemig.get_include()])],
        language_level=3,
    ),
)
