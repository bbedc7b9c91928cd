"""A member whose log has segments of 8 KiB and reserves 4 KiB, so that a test of seconds sees many begun and dropped."""

from store.raft import wal

# Before the modules that take them over are imported.
wal.SEGMENT_BYTES = 8 << 10
wal.RESERVE_BYTES = 4 << 10

from store.command import command  # noqa: E402

if __name__ == "__main__":
    command(prog_name="store")
