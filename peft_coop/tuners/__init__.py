"""Which parameters a method has, and where they sit in the model."""

from .layer import CoOpEmbeddings
from .model import CoOpModel

__all__ = ["CoOpEmbeddings", "CoOpModel"]
