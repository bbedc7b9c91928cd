"""The calls of kube-apiserver are answered as etcd answers them."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.store.api.conftest import Member
from tests.store.api.kubernetes_calls import CHANNEL, replay
from tests.store.programs import etcd_server

pytestmark = pytest.mark.root


async def test_a_session_of_kube_apiserver(member: Member, etcds: dict[str, Path], tmp_path: Path) -> None:
    async with etcd_server(etcds["newest"], tmp_path / "etcd") as endpoint:
        async with grpc.aio.insecure_channel(endpoint, options=CHANNEL) as channel:
            expected = await replay(channel)
        async with grpc.aio.insecure_channel(member.endpoint, options=CHANNEL) as channel:
            answers = await replay(channel)
    assert len(answers) > 60
    for place, (answer, wanted) in enumerate(zip(answers, expected, strict=True)):
        assert answer == wanted, f"answer {place}"
