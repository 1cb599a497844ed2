"""What is served follows the disk, and nothing sound is ever given up for something broken."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.prediction.sources import VersionPolicy, parse_policy
from tests.unit.server.prediction.conftest import Served, serve


def push(half: Path, root: Path, version: int, *, bias: float | None = None) -> Path:
    """Copies the model as a version; with a bias, as one that answers differently."""
    from tests.unit.server.prediction.conftest import save_half

    target = root / "half" / str(version)
    if bias is None:
        shutil.copytree(half, target)
    else:
        save_half(target, bias)
    return target


async def poll(served: Served, times: int = 2) -> None:
    """Looks at the disk until new versions were seen unchanged."""
    for _ in range(times):
        await served.repository.poll()
    await asyncio.sleep(0.05)


async def states(served: Served) -> dict[str, str]:
    found = await served.get("half")
    return {entry["version"]: entry["state"] for entry in found.get("model_version_status", [])}


async def until_ended(served: Served, version: str) -> None:
    """Waits until a version that was dropped is unloaded, which a busy machine does late."""
    async with asyncio.timeout(30):
        while (await states(served))[version] != "END":
            await asyncio.sleep(0.05)


async def answer(served: Served, path: str = "half") -> Any:
    return (await served.post(f"{path}:predict", {"instances": [2.0]})).get("predictions")


def test_a_new_version_replaces_the_old_one(half: Path, tmp_path: Path) -> None:
    push(half, tmp_path, 1)

    async def use(served: Served) -> None:
        push(half, tmp_path, 10, bias=5.0)
        assert await answer(served) == [3.0]
        await poll(served)
        assert await answer(served) == [6.0]
        assert await states(served) == {"10": "AVAILABLE", "1": "END"}

    serve(tmp_path, use)


def test_a_version_that_is_being_written_waits(half: Path, tmp_path: Path) -> None:
    push(half, tmp_path, 1)

    async def use(served: Served) -> None:
        path = push(half, tmp_path, 2)
        for size in range(3):
            (path / "assets" / "words").write_text("x" * size)
            await served.repository.poll()
            assert await states(served) == {"1": "AVAILABLE"}
        await served.repository.poll()
        assert (await states(served))["2"] == "AVAILABLE"

    serve(tmp_path, use)


@pytest.mark.parametrize("damage", ["garbage", "no variables", "truncated variables", "no file"])
def test_a_broken_version_replaces_nothing_and_says_why(half: Path, tmp_path: Path, damage: str) -> None:
    push(half, tmp_path, 1)

    async def use(served: Served) -> None:
        path = push(half, tmp_path, 2)
        data = path / "variables" / "variables.data-00000-of-00001"
        if damage == "garbage":
            (path / "saved_model.pb").write_bytes(b"\xffnot a model")
        elif damage == "no variables":
            shutil.rmtree(path / "variables")
        elif damage == "truncated variables":
            data.write_bytes(data.read_bytes()[:-3])
        else:
            (path / "saved_model.pb").unlink()
        await poll(served, 3)
        assert await answer(served) == [3.0]
        found = await states(served)
        assert found == {"1": "AVAILABLE"} | ({"2": "END"} if damage != "no file" else {})
        if damage != "no file":
            status = (await served.get("half/versions/2"))["model_version_status"][0]["status"]
            assert status["error_code"] != "OK"
            assert status["error_message"]
        shutil.rmtree(path)
        push(half, tmp_path, 2)
        await poll(served)
        assert (await states(served))["2"] == "AVAILABLE"

    serve(tmp_path, use)


def test_the_newest_sound_version_is_served_from_the_start(half: Path, tmp_path: Path) -> None:
    push(half, tmp_path, 1)
    (push(half, tmp_path, 2) / "saved_model.pb").write_bytes(b"")

    async def use(served: Served) -> dict[str, str]:
        return await states(served)

    assert serve(tmp_path, use) == {"1": "AVAILABLE", "2": "END"}


def test_a_request_finishes_on_the_version_that_took_it(half: Path, tmp_path: Path) -> None:
    push(half, tmp_path, 1)

    async def use(served: Served) -> None:
        old = served.repository.models.by_name["half"].loaded[1]
        with old.in_use():
            push(half, tmp_path, 2)
            await poll(served)
            assert (await states(served))["1"] == "UNLOADING"
            signature = old.servable.signatures["serving_default"]
            found = await old.batcher.submit(signature, [np.float32([2.0])], ("y",), timeout_seconds=5)
            assert found[0].tolist() == [3.0]
        await until_ended(served, "1")

    serve(tmp_path, use)


def test_policies_choose_versions(half: Path, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        push(half, tmp_path, version)

    async def use(served: Served) -> set[str]:
        return set(await states(served))

    def chosen(policy: str, **options: Any) -> set[str]:
        return serve(tmp_path, use, policy=parse_policy(policy), **options)

    assert chosen("latest") == {"3"}
    assert chosen("latest:2") == {"2", "3"}
    assert chosen("all") == {"1", "2", "3"}
    assert chosen("1,2") == {"1", "2"}
    assert chosen("latest", labels={"": {"old": 1}}) == {"1", "3"}


def test_a_removed_version_and_a_removed_model_are_dropped(half: Path, tmp_path: Path) -> None:
    push(half, tmp_path, 1)
    push(half, tmp_path, 2)

    async def use(served: Served) -> None:
        shutil.rmtree(tmp_path / "half" / "2")
        await poll(served)
        await until_ended(served, "2")
        assert await states(served) == {"1": "AVAILABLE", "2": "END"}
        shutil.rmtree(tmp_path / "half")
        await poll(served)
        assert (await served.web.get("/readyz")).status_code == 503
        await poll(served)
        assert (await served.web.get("/v1/models/half")).status_code == 404
        push(half, tmp_path, 1)
        await poll(served)
        assert await answer(served) == [3.0]

    serve(tmp_path, use, policy=VersionPolicy(latest=None))
