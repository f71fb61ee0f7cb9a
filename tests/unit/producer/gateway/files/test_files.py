"""Files, with OpenAI's own client."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.batches import KEY, batch_gateway
from tests.gateways import gateway_of

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer.gateway.files import routes
from tokenlane.producer.gateway.files.shelf import UPLOADS_KEPT_S, Shelf
from tokenlane.producer.testing import MockPool
from tokenlane.routing.store.keychain import Keychain


async def test_a_file_is_uploaded_listed_read_and_deleted(tmp_path: Path) -> None:
    content = b'{"secret": 1}\n' * 100_000  # more than one piece
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        file = await sdk.files.create(file=("in.jsonl", content), purpose="batch")
        assert (file.filename, file.bytes, file.purpose) == ("in.jsonl", len(content), "batch")
        assert file.expires_at == file.created_at + UPLOADS_KEPT_S
        assert (await sdk.files.retrieve(file.id)) == file
        assert (await sdk.files.content(file.id)).content == content
        for path in [each for each in tmp_path.rglob("*") if each.is_file()]:
            assert b"secret" not in path.read_bytes()
            assert b"in.jsonl" not in path.read_bytes()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await sdk.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await sdk.files.retrieve(file.id)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


async def test_a_list_has_pages_and_orders(tmp_path: Path) -> None:
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        ids = [(await sdk.files.create(file=b"{}", purpose="batch")).id for _ in range(5)]
        assert [file.id async for file in sdk.files.list(limit=2, order="asc")] == sorted(ids)
        assert [file.id async for file in sdk.files.list(limit=2)] == sorted(ids, reverse=True)
        assert [file.id async for file in sdk.files.list(purpose="batch_output")] == []
        with pytest.raises(openai.BadRequestError):
            await sdk.files.list(after="file-0")


async def test_nobody_sees_the_files_of_another(tmp_path: Path) -> None:
    other: dict[str, Any] = {"extra_headers": {"x-agent": "other"}}
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        file = await sdk.files.create(file=b"{}", purpose="batch")
        assert [each async for each in sdk.files.list(**other)] == []
        for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
            with pytest.raises(openai.NotFoundError):
                await call(file.id, **other)
        assert await sdk.files.retrieve(file.id) == file


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": "vision"}, "purpose"),
        ({"purpose": "fine-tune"}, "purpose"),
        ({}, "purpose"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "5"}, "expires_after"),
        ({"purpose": "batch", "expires_after[seconds]": "7200"}, "expires_after"),
        ({"purpose": "batch" * 1000}, "purpose"),
    ],
)
async def test_a_wrong_field_is_named_and_leaves_nothing(tmp_path: Path, form: dict[str, str], param: str) -> None:
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        async with httpx.AsyncClient() as asks:
            reply = await asks.post(f"{sdk.base_url}files", data=form, files={"file": b"content"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


async def test_what_is_no_form_is_refused(tmp_path: Path) -> None:
    form = {"content-type": "multipart/form-data; boundary=x"}
    cut = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\ncontent'
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        async with httpx.AsyncClient(base_url=str(sdk.base_url)) as asks:
            for headers, body in (({}, b"{}"), (form, b"no form"), (form, cut), ({"content-type": "multipart/x"}, cut)):
                assert (await asks.post("files", headers=headers, content=body)).status_code == 400
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


async def test_a_file_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "FILE_LIMIT_BYTES", 10)
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        await sdk.files.create(file=b"0123456789", purpose="batch")
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.files.create(file=b"0123456789a", purpose="batch")
        assert caught.value.status_code == 413
        monkeypatch.setattr(routes, "SHELF_LIMIT_BYTES", 10)
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.files.create(file=b"0", purpose="batch")
        assert (caught.value.status_code, caught.value.code) == (507, "files_full")


async def test_expired_files_are_gone_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with MockPool() as pool, pool.client() as client, batch_gateway(client, tmp_path) as sdk:
        expires: Any = {"anchor": "created_at", "seconds": 3600}
        file = await sdk.files.create(file=b"{}", purpose="batch", expires_after=expires)
        assert file.expires_at == file.created_at + 3600
    files = Shelf(tmp_path, Keychain(KeyRing((KEY,)), "pool"))
    files.sweep(lambda _: False)
    assert files.get(file.id, "gateway") is not None
    monkeypatch.setattr("tokenlane.producer.gateway.files.shelf.time.time", lambda: file.created_at + 3600)
    assert files.get(file.id, "gateway") is None
    files.sweep(lambda _: False)
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


async def test_a_gateway_without_files_says_how_to_enable_them() -> None:
    async with MockPool() as pool, pool.client() as client, gateway_of(client) as url, httpx.AsyncClient() as asks:
        for path in ("files", "batches"):
            reply = await asks.get(f"{url}/v1/{path}")
            assert (reply.status_code, reply.json()["error"]["code"]) == (501, "files_not_enabled")
