"""A member whose log has segments of 8 KiB, so that a test of seconds sees many begun and dropped."""

from store.raft import wal

wal.SEGMENT_BYTES = 8 << 10  # before the modules that take it over are imported

from store.command import command  # noqa: E402

if __name__ == "__main__":
    command(prog_name="store")
