"""Derive every random stream's seed by hashing its purpose, never by adding integers.

Usage: `derive(seed, "sampling", step, item, sample)`. Adding integers makes (seed 0, step 1) and
(seed 1, step 0) share a stream; a hash of the tuple does not.
"""

import hashlib


def derive(*parts: int | str) -> int:
    """Hash `parts` to a non-negative 63-bit seed (blake2b; types and order count)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
