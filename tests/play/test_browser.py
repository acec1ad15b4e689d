"""The page in headless Chromium, over the DevTools protocol: keys, sliders and buttons really drive.

With `WHALE_PLAY_PNG=docs/play.png` the picture of the README is made too, of the model that `make demo` trained;
overrides of configs/play/tabletop.yaml may stand in `WHALE_PLAY_OVERRIDES`.
"""

import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest

aiohttp = pytest.importorskip("aiohttp", reason="the data extra is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

KEY_CODES = {
    "Backspace": 8,
    "Enter": 13,
    "Space": 32,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
}


class Browser:
    """One headless Chromium with one page at a time; `faults` are what the console and the page complained of."""

    def __init__(self, profile: Path):
        self.faults: list[str] = []
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--disable-background-networking"]
        self.process = subprocess.Popen(
            [CHROMIUM, *flags, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr
        port = next(found[1] for line in self.process.stderr if (found := re.search(r"ws://127.0.0.1:(\d+)/", line)))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            self._page = next(one for one in json.load(answer) if one["type"] == "page")["webSocketDebuggerUrl"]
        self._loop, self._sent = asyncio.new_event_loop(), 0
        self._loop.run_until_complete(self._connect())
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    async def _connect(self):
        self._client = aiohttp.ClientSession()
        self._socket = await self._client.ws_connect(self._page, max_msg_size=0)

    def call(self, method: str, **parameters):
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), 30))

    async def _call(self, method, parameters):
        self._sent += 1
        await self._socket.send_json({"id": self._sent, "method": method, "params": parameters})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == self._sent:
                assert "error" not in answer, answer
                return answer["result"]
            entry = answer.get("params", {}).get("entry", {})
            called = answer.get("params", {}).get("type")
            if answer["method"] == "Runtime.exceptionThrown" or entry.get("level") == "error" or called == "error":
                self.faults.append(json.dumps(answer["params"]))

    def run(self, script: str):
        """What a script gives, promises awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        script = f"""new Promise((yes, no) => {{ const begun = Date.now(), look = () =>
            ({condition}) ? yes() : Date.now() - begun > 15000 ? no(new Error("waited in vain")) : setTimeout(look, 20);
            look(); }})"""
        self.run(script)

    def open(self, url: str, width: int = 1280, height: int = 920) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Page.navigate", url=url)
        self.until("document.body && document.body.dataset.ready === 'yes'")

    def press(self, code: str) -> None:
        """Press and release a key, and wait for the step that it makes."""
        before = self.run("state.revision")
        key = {
            "code": code,
            "key": "Enter" if code == "Enter" else code,
            "windowsVirtualKeyCode": KEY_CODES.get(code, 0),
        }
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)
        self.until(f"state.revision > {before} && !busy")

    def click(self, selector: str) -> None:
        place = f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()"
        box = self.run(place)
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({selector!r}).innerText")

    def save(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        async def leave():
            await self._socket.close()
            await self._client.close()

        self._loop.run_until_complete(leave())
        self._loop.close()
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stderr
        self.process.stderr.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    running = Browser(tmp_path_factory.mktemp("chromium"))
    yield running
    running.close()


@pytest.fixture
def page(browser, server):
    """A page with a session of its own, in which nothing may go wrong unsaid."""
    browser.faults.clear()
    browser.open(server.url)
    yield browser
    assert browser.faults == []


def actions(page):
    return np.array(page.run("state.actions"))


def test_keys_drive(page):
    page.press("Space")  # the gripper first, so that the steps after it hold it
    held = 1 - round(page.run("state.recorded_steps && state.actions[0][6]"))
    for code in ("ArrowLeft", "KeyD", "ArrowUp", "KeyS", "KeyR", "KeyF", "Space"):
        page.press(code)
    moved = [[0, 0, 0], [-1, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [0, 0, 0]]
    np.testing.assert_allclose(actions(page)[:, :3], 0.05 * np.array(moved))
    assert actions(page)[:, 6].tolist() == [1 - held] * 7 + [held]
    assert page.text("#step") == "8" and page.text("#beside-note") == "The recording ended at step 7"
    page.press("Backspace")
    assert len(actions(page)) == 7 and page.text("#beside-note") == "Other actions since step 1"


def test_a_slider_and_enter_drive_in_physical_units(page):
    page.run("""(() => { const input = document.querySelector("input[data-axis='1']");
        input.value = 0.02; input.dispatchEvent(new Event("input")); })()""")
    assert "+0.020 m" in page.text("#axes")
    page.press("Enter")
    np.testing.assert_allclose(actions(page)[0, :3], [0, 0.02, 0], atol=1e-7)
    page.run("(() => { const input = $('speed'); input.value = 0.5; input.oninput(); })()")
    page.press("ArrowRight")
    np.testing.assert_allclose(actions(page)[1, :3], [0.025, 0, 0], atol=1e-7)


def test_the_recording_and_a_policy_take_the_wheel_and_give_it_back(page):
    page.click("#follow")
    page.until("playing === null && state.actions.length === state.recorded_steps")
    assert page.text("#beside-note") == "The same actions so far"
    page.click("#restart")
    page.until("state.actions.length === 0 && !busy")
    page.click("#drive")
    page.until("state.actions.length >= 2")
    page.click("#drive")
    page.until("playing === null && !busy")
    assert set(page.run("state.drivers")) == {"steady"}


def test_a_reload_and_a_second_page_show_the_same(page, server):
    page.press("ArrowLeft")
    page.press("ArrowUp")
    address, shown = page.run("location.href"), "[state, $('step').innerText, $('imagined').firstChild.src]"
    before = page.run(shown)
    assert address.startswith(f"{server.url}/s/")
    page.open(address)
    assert page.run(shown)[0]["runs"] == before[0]["runs"] and page.run(shown)[1:] == before[1:]
    server.raw(f"/api/sessions/{address.rpartition('/')[2]}/follow", b"{}")  # someone else, watching too
    page.until("state.actions.length === 3 && $('step').innerText === '3'")


def test_another_checkpoint_beside_and_looking_back(page):
    for code in ("ArrowLeft", "ArrowUp", "ArrowUp"):
        page.press(code)
    page.run("(() => { $('model').value = 'second'; $('model').onchange(); })()")
    page.until("state.model === 'second' && !busy && document.querySelectorAll('#tabs button').length === 2")
    page.click("#tabs button:last-child")
    page.until("$('beside').firstChild.src.includes('/frames/first/3.png')")
    page.run("(() => { viewed = 1; return show(); })()")
    assert page.text("#undo") == "Go on from 1" and page.text("#of") == "of 3 steps"
    page.click("#undo")
    page.until("state.actions.length === 1")


def test_what_goes_wrong_is_told_on_the_page_and_one_can_go_on(page):
    page.run("send('step', { action: [9, 0, 0, 0, 0, 0, 1] })")
    page.until("!$('toast').hidden")
    assert re.search("Dx of the action is 9, outside of .* Remedy: give a value within", page.text("#toast p"))
    page.run("(() => { $('policy').value = 'raising'; })()")
    page.click("#policy-1")
    page.until("$('toast').innerText.includes('no idea')")
    page.press("ArrowLeft")
    assert page.run("$('toast').hidden") and len(actions(page)) == 1
    refusals = [fault for fault in page.faults if "422" in fault]
    assert len(refusals) == 2  # Chromium itself notes every answer that is no success
    page.faults[:] = [fault for fault in page.faults if fault not in refusals]


def test_another_viewer_undoes_the_step_that_is_looked_back_at(page, server):
    for _ in range(4):
        page.press("ArrowLeft")
    page.run("(() => { viewed = 3; return show(); })()")
    server.raw(f"/api/sessions/{page.run('id')}/rewind", b'{"step": 1}')
    page.until("state.actions.length === 1 && $('step').innerText === '1'")
    assert page.text("#imagined-note") == "Driven by you at step 1"


def test_what_is_asked_at_once_is_done_in_turn(page):
    asked = ["'follow'", "'follow'", "'rewind', { step: 1 }", "'model', { model: 'second' }"]
    page.run(f"Promise.all([{', '.join(f'send({one})' for one in asked)}])")
    assert len(actions(page)) == 1 and page.run("state.model") == page.run("$('model').value") == "second"
    page.run("play('follow')")
    page.press("Backspace")
    assert page.run("playing") is None and len(actions(page)) == 0


def test_a_step_of_another_viewer_is_shown_though_it_came_while_this_one_waited(page, server):
    page.run("busy = true")
    server.raw(f"/api/sessions/{page.run('id')}/follow", b"{}")
    page.until("newest > state.revision")
    page.run("send('rewind', { step: -1 })")
    page.until("state.actions.length === 1")
    page.faults[:] = [fault for fault in page.faults if "422" not in fault]


def test_a_session_that_is_gone_is_told_and_a_new_one_begins(browser, server):
    browser.call("Page.navigate", url=f"{server.url}/s/never-was")
    browser.until("document.querySelector('#toast') && !document.querySelector('#toast').hidden")
    assert "not here any more" in browser.text("#toast")
    browser.click("#toast button")
    browser.until("document.body && document.body.dataset.ready === 'yes'")


@pytest.mark.parametrize("width", [1280, 900, 600])
def test_nothing_is_wider_than_the_window(page, width):
    page.open(page.run("location.href"), width=width)
    page.press("ArrowLeft")
    assert page.run("document.documentElement.scrollWidth") <= width


GRASP_CARRY_LEAVE = [
    "ArrowLeft", *["KeyF"] * 3, "Space", *["KeyR"] * 2, *["ArrowLeft"] * 3, *["KeyF"] * 2, "Space", *["KeyR"] * 3,
    *["ArrowUp"] * 3, "ArrowRight",
]  # fmt: skip
"""Twenty keys that bring the disc of the demo's first held-out episode onto the ring."""


def test_a_picture_for_the_readme(browser, new_server, monkeypatch):
    if not (file := os.environ.get("WHALE_PLAY_PNG")):
        pytest.skip("WHALE_PLAY_PNG names no file for the picture")
    repository = Path(__file__).resolve().parents[2]
    overrides = os.environ.get("WHALE_PLAY_OVERRIDES", "").split()
    monkeypatch.chdir(repository)
    server = new_server("port=0", *overrides, file="configs/play/tabletop.yaml")
    browser.open(server.url)
    for code in GRASP_CARRY_LEAVE:
        browser.press(code)
    for model in ("undertrained", "standard"):
        browser.run(f"send('model', {{ model: '{model}' }})")
    browser.save(repository / file)
    assert len(actions(browser)) == 20
