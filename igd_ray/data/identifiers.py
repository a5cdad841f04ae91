"""Image ids: where an image stands, and a digest of its content after the last dash."""

import hashlib

DIGEST_LENGTH = 8


def content_digest(content: bytes) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of `content`: encoded bytes, or raw pixels."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


def row_id(stem: str, row: int, content: bytes) -> str:
    """Return the id of the image in row `row` of `stem`.

    >>> row_id("test", 3, b"")
    'test-000003-e3b0c442'
    """
    return f"{stem}-{row:06d}-{content_digest(content)}"


def digest_of(image_id: str) -> str:
    """Return the digest in an id.

    >>> digest_of("test-000003-e3b0c442")
    'e3b0c442'
    """
    return image_id.rpartition("-")[2]
