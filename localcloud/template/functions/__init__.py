"""The functions of the template language, one module a family. Importing this package declares them."""

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
