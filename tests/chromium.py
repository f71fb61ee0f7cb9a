"""A headless Chromium for tests of pages: it opens a page, looks at it, presses keys and clicks, as a person would.

It speaks the DevTools protocol itself, since a driver of browsers is a download of 50 MB.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

import aiohttp

from tokenlane.routing.support.tasks import background

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--disable-extensions", "--remote-debugging-port=0"),
)
_KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}


class Page:
    """A page of the browser. `errors`: what it wrote to its console as errors, violations of its policy among them."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._ids = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Read answers and events until the socket closes."""
        async for message in self._socket:
            received = json.loads(message.data)
            if "id" in received:
                self._answers.pop(received["id"]).set_result(received)
            elif received.get("method") == "Log.entryAdded" and received["params"]["entry"]["level"] == "error":
                self.errors.append(received["params"]["entry"]["text"])
            elif received.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(received["params"]["exceptionDetails"]))

    async def command(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command of the protocol, and return its result."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(30):
            received = await answer
        assert "error" not in received, received
        result: dict[str, Any] = received["result"]
        return result

    async def open(self, url: str) -> None:
        """Open this address."""
        await self.command("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def text(self, selector: str) -> str:
        """What is written in the first element that matches; empty if none does or it is hidden."""
        return str(await self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    async def until(self, script: str, timeout_s: float = 30) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        async with asyncio.timeout(timeout_s):
            while not (value := await self.run(script)):
                await asyncio.sleep(0.05)
        return value

    async def shows(self, text: str, selector: str = "body") -> None:
        """Wait until the page shows a text in an element."""
        element = f"document.querySelector({json.dumps(selector)})"
        await self.until(f"({element}?.innerText ?? '').includes({json.dumps(text)})")

    async def click(self, selector: str) -> None:
        """Click in the middle of an element, where a person would."""
        found = json.dumps(selector)
        await self.until(f"document.querySelector({found}) !== null")
        box = await self.run(
            f"(() => {{ const it = document.querySelector({found}); it.scrollIntoView({{block: 'center'}});"
            "const {x, y, width, height} = it.getBoundingClientRect(); return [x + width / 2, y + height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            place = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            await self.command("Input.dispatchMouseEvent", type=kind, **place)

    async def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key."""
        code = {"windowsVirtualKeyCode": _KEYS[key], "key": key, "code": key, "modifiers": 8 if shift else 0}
        text = {"Enter": "\r", " ": " "}.get(key)
        await self.command("Input.dispatchKeyEvent", type="keyDown", **code, **({"text": text} if text else {}))
        await self.command("Input.dispatchKeyEvent", type="keyUp", **code)

    async def write(self, text: str) -> None:
        """Type a text."""
        await self.command("Input.insertText", text=text)

    async def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Give the page another size, in CSS pixels."""
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )

    async def prefer(self, scheme: Literal["light", "dark"]) -> None:
        """Ask for a colour scheme, as a system does."""
        await self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, file: Path, *, whole: bool = False) -> None:
        """Write what the page shows as a PNG; `whole`: also what one must scroll to."""
        taken = await self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))


@asynccontextmanager
async def chromium(directory: Path) -> AsyncIterator[Page]:
    """A browser with an empty page, 1280 by 800. It ends with the block."""
    assert BINARY is not None
    browser = await asyncio.create_subprocess_exec(
        *(BINARY, *_OPTIONS, f"--user-data-dir={directory}", "about:blank"), stdout=DEVNULL, stderr=PIPE
    )
    try:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(60):
                port = await _port(browser)
            async with session.get(f"http://127.0.0.1:{port}/json/list") as listed:
                (target,) = [each for each in await listed.json() if each["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                async with background() as tasks:
                    page = Page(socket)
                    tasks.create_task(page.read())
                    for domain in ("Page", "Runtime", "Log"):
                        await page.command(f"{domain}.enable")
                    await page.resize(1280, 800)
                    yield page
    finally:
        if browser.returncode is None:
            browser.kill()
        await browser.communicate()


async def _port(browser: asyncio.subprocess.Process) -> int:
    """The port of the DevTools, which the browser writes to its standard error."""
    assert browser.stderr is not None
    async for line in browser.stderr:
        if found := re.search(rb"DevTools listening on ws://[^:]+:(\d+)/", line):
            return int(found[1])
    raise AssertionError(f"Chromium ended with {await browser.wait()}")
