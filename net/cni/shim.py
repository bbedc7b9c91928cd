"""Hand a CNI call to the node's daemon: the environment and stdin go out, the answer comes back.

A container runtime starts this file anew for each call, as a program of its own under
`python -IS`; so it imports two built-in modules and nothing else. `install` in `conflist` writes
it out with the daemon's socket in place of the one below.
"""

import _socket
import posix

SOCKET = "/run/raftsman/cni.sock"
PATIENCE_S = 120.0
PIECE_BYTES = 65536


def main() -> int:
    """Pass one call on and return the exit code."""
    environment = posix.environ
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(PATIENCE_S)
    try:
        connection.connect(SOCKET)
        for name, value in environment.items():
            if name.startswith(b"CNI_"):
                connection.sendall(name + b"=" + value + b"\0")
        connection.sendall(b"\0")
        while piece := posix.read(0, PIECE_BYTES):
            connection.sendall(piece)
        connection.shutdown(_socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(PIECE_BYTES):
            answer += piece
        if answer:
            posix.write(1, answer[1:])
            return answer[0] - 48
        reason = "it ended without an answer"
    except OSError as error:
        reason = str(error)
    # Code 11 is "try again later": the daemon is starting, or was replaced in the middle of this call.
    text = '{"cniVersion":"1.0.0","code":11,"msg":"the node\'s CNI daemon does not answer","details":"%s: %s"}'
    posix.write(1, (text % (SOCKET, reason.replace('"', "'"))).encode())
    return 1


if __name__ == "__main__":
    posix._exit(main())
