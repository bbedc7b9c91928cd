"""What goes wrong at the door to nftables."""

from __future__ import annotations

import errno

PASSING = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ENFILE, errno.ETIMEDOUT})


class NftablesError(Exception):
    """A transaction did not happen; the text names table, set and element, and says why."""

    def __init__(self, message: str, number: int = 0, set_name: str = "", element: bytes = b"") -> None:
        self.number = number
        """The kernel's error number; 0 where it is nft that complains."""
        self.set_name, self.element = set_name, element
        super().__init__(message)

    @property
    def is_passing(self) -> bool:
        """Whether the same transaction may succeed later."""
        return self.number in PASSING
