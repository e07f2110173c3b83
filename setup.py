"""Packaging of mergedistill_jax. The gin files stay in the repository: install with `pip install -e .`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "mergedistill_jax" / "__init__.py").read_text()).group(1)

setup(
    name="mergedistill_jax",
    version=VERSION,
    description="Merge several pre-trained language models into one student by offline distillation, in JAX",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mergedistill_jax*", "tasks*"]),
    package_data={"mergedistill_jax.evaluation": ["templates/*"]},
    entry_points={"console_scripts": ["mergedistill = mergedistill_jax.__main__:main"]},
    install_requires=[
        "jax>=0.10.2,<0.11",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "seqio>=0.0.20",
        "tensorflow-cpu>=2.21,<2.22",
        "tensorflow-text>=2.21,<2.22",
        "numpy>=2.4",
        "gin-config>=0.5",
        "clu>=0.0.12",
        "tensorboard",  # clu's TensorBoard writer needs it and does not say so
        "sentencepiece>=0.2.3",
        "tokenizers>=0.22",
        "huggingface_hub>=2.4",
        "safetensors>=0.6",
        "etils[epath]",
        "jaxtyping",
        "mwparserfromhell>=0.7.2,<0.8",  # another version may give other text, hence another corpus
        "pyarrow>=26",
        "tensorflow-datasets>=4.9.10",
        "seqeval",
        "matplotlib",
        "jinja2",
        "markupsafe",
    ],
    extras_require={
        "plan": ["libtpu==0.0.42.1"],  # the compiler for TPU; `plan` for CPU does without
        "test": [
            "pytest",
            "pytest-xdist",
            "beartype",
            "ruff==0.17.5",
            "pyright[nodejs]==1.1.414",
            "import-linter",
            "transformers==5.23.0",
            "torch==2.13.0",
        ],
    },
)
