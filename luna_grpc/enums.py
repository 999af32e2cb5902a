"""What the enums of the domain have in common."""

from enum import StrEnum


class Word(StrEnum):
    """One of a few texts, which is found in a dict or a set as fast as any text: `Enum` has a `__hash__` written in Python."""

    __hash__ = str.__hash__
