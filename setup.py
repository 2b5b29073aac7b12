"""Packaging of tfrec; the version stands in `tfrec/__init__.py` alone."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "tfrec" / "__init__.py").read_text(), re.MULTILINE).group(1)

# TensorFlow 2.16 is the newest that a tensorflow-io and a ScaNN release are both built against.
INSTALL_REQUIRES = [
    "tensorflow==2.16.2",
    "tf-keras~=2.16.0",
    "tensorflow-recommenders==0.7.7",
    "tensorflow-hub==0.16.1",
    "tensorflow-text==2.16.1",
    "tensorflow-io==0.37.1",
    "tensorflow-serving-api==2.16.1",
    "aiohttp>=3.11,<4",
    "grpcio-health-checking>=1.62,<1.63",  # the last that takes the protobuf of TensorFlow 2.16
    "scann==1.3.2",
    "setuptools<81",  # tensorflow-hub imports pkg_resources
    "librosa~=0.11.0",
    "opencv-python-headless~=4.11.0",
    "av>=14,<19",
    "scenedetect~=0.6.7",
    "numpy>=1.26,<2",
    "pandas>=2.2,<4",
    "pyarrow>=17,<26",  # 26 refuses NumPy 1.26 when it is imported
    "safetensors>=0.4.3,<1",
    "scipy>=1.11,<2",
    "scikit-learn>=1.4,<2",
    "implicit~=0.7.3",
    "threadpoolctl>=3.2,<4",
    "jsonargparse[signatures]>=4.49,<5",
    "rich>=13,<16",
    "tenacity>=9,<10",
    "jinja2>=3.1,<4",
    "matplotlib>=3.8,<4",
    "optuna>=4,<5",
    "PyYAML>=6,<7",
]

EXTRAS_REQUIRE = {
    "ray": ["ray[data,train]>=2.51,<3"],
    "dev": [
        "hypothesis>=6.100,<7",
        "mypy>=1.11,<3",
        "pandas-stubs>=2.2",
        "pre-commit>=3.7,<5",
        "pytest>=8.2,<10",
        "pytest-xdist>=3.6,<4",
        "ray[train]>=2.51,<3",
        "ruff>=0.6,<1",
        "types-PyYAML>=6,<7",
    ],
}

setup(
    name="tfrec",
    version=VERSION,
    description="A production recommender for video on TensorFlow: train, export, serve.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=["tfrec", "tfrec.*", "serving", "serving.*", "pipelines", "pipelines.*"]),
    package_data={"tfrec": ["evaluation/*.html.j2", "py.typed"], "pipelines": ["configs/*.yaml"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
