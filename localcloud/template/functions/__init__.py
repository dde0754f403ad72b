"""The functions of the template language, a module a family. Importing this package declares them all."""

from localcloud.template.functions import (
    collections,
    dates,
    encodings,
    lambdas,
    logic,
    networks,
    numbers,
    resources,
    texts,
)

__all__ = [
    "collections",
    "dates",
    "encodings",
    "lambdas",
    "logic",
    "networks",
    "numbers",
    "resources",
    "texts",
]
