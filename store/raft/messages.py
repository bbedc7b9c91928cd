"""Turns what PySyncObj says, in dicts, into frames."""

from __future__ import annotations

from typing import Any

from proto.raft import message_pb2 as pb


def contiguous(previous: int, entries: list[tuple[bytes, int, int]]) -> bool:
    """Tell whether entries follow each other and the index before them."""
    return all(entry[1] == previous + 1 + place and entry[0] for place, entry in enumerate(entries))


def frame_of(message: dict[str, Any], term: int, read_round: int, transfer: bool) -> pb.Frame:
    """Turn a message that PySyncObj sends by itself into a frame.

    It lacks a term in acknowledgements, the round of read barriers, and why a candidate stands.
    """
    kind = message["type"]
    if kind == "next_node_idx":
        body = pb.Acknowledgement(
            term=term,
            next_index=message["next_node_idx"],
            reset=message["reset"],
            success=message["success"],
            read_round=read_round,
        )
        return pb.Frame(acknowledgement=body)
    if kind == "request_vote":
        request = pb.VoteRequest(
            term=message["term"],
            last_index=message["last_log_index"],
            last_term=message["last_log_term"],
            transfer=transfer,
        )
        return pb.Frame(vote_request=request)
    if kind == "response_vote":
        return pb.Frame(vote=pb.Vote(term=message["term"]))
    raise AssertionError(f"PySyncObj sent a message that is not expected of it: {kind}")
