"""Runs the model owner's process: the weights stay in it, apart from front end and coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import Any

from fedpipe.errors import EncryptedError

_SECONDS = 900.0
_LINE_BYTES = 64 << 20  # a model card holds vocabularies


class OwnerProcess:
    """Asked in order: export, share, check."""

    async def start(self) -> None:
        """Starts it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "from fedpipe.entry import own_packages_first as first; first(); "
            "import sys; from server.encrypted.owner import serve; serve(sys.stdin)",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LINE_BYTES,
        )

    async def ask(self, order: str, **arguments: Any) -> dict[str, Any]:
        """Returns the answer to an order.

        Raises:
          EncryptedError: it fails, dies or takes too long.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise EncryptedError("Expected a running model owner's process, found none.")
        stdin.write(json.dumps({"order": order, **arguments}).encode() + b"\n")
        try:
            await stdin.drain()
            line = await asyncio.wait_for(stdout.readline(), _SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            raise EncryptedError(
                f"Expected the model owner's process to {order}, found {type(error).__name__}."
            ) from error
        if not line:
            raise EncryptedError(f"Expected the model owner's process to {order}, found that it died.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EncryptedError(str(answer["error"]))
        return answer

    async def close(self) -> None:
        """Ends it."""
        process = getattr(self, "_process", None)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
