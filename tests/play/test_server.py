import io
import json
import signal
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image

from whale.errors import UserError
from whale.play.run import is_loopback
from whale.play.server import listen

LEFT, UP = [-0.05, 0, 0, 0, 0, 0, 1], [0, 0.04, 0, 0, 0, 0, 0]


def test_the_page_is_one_file_that_asks_nobody_else(server):
    page = server.raw("/").decode()
    assert page.startswith("<!doctype html>") and page == server.raw("/s/whatever").decode()
    assert "//" not in page.replace("// ", "").replace("http://www.w3.org/2000/svg", "")


def test_it_offers_what_the_configuration_names(server, config):
    offered = server.get("/api/options")
    assert list(offered["models"]) == ["first", "second"] and offered["policies"] == list(config.policies)
    assert [episode["frames"] for episode in offered["episodes"]] == [10, 10, 10]
    assert offered["models"]["first"]["status"] == [2, 2, 2, 1, 1, 1, 2]


def test_driving_and_a_reload(server):
    driver = server.open(episode=1)
    driver.act("step", action=LEFT)
    driver.act("follow")
    told = driver.act("policy", policy="steady")
    assert told["drivers"] == ["you", "recording", "steady"]
    assert told == driver.state()
    before = driver.frame("first", 3)
    told = driver.act("rewind", step=1)
    assert len(told["actions"]) == 1
    driver.act("step", action=UP)
    assert driver.state()["actions"][1] == np.float32(UP).tolist()
    frame = Image.open(io.BytesIO(before))
    assert frame.size == (16, 16) and frame.format == "PNG"


def test_another_checkpoint_imagines_the_same_actions(server):
    driver = server.open()
    for action in (LEFT, UP):
        first = driver.act("step", action=action)
    second = driver.act("model", model="second")
    assert second["actions"] == first["actions"] and second["runs"]["first"] == first["runs"]["first"]
    assert second["runs"]["second"] != second["runs"]["first"]
    assert driver.frame("first", 2) != driver.frame("second", 2)
    assert driver.act("model", model="first")["runs"] == second["runs"]


def test_a_download_is_what_was_driven(server):
    driver = server.open()
    driver.act("follow")
    told = driver.act("step", action=UP)
    content = np.load(io.BytesIO(server.raw(f"/api/sessions/{driver.id}/episode.npz")), allow_pickle=False)
    np.testing.assert_array_equal(content["actions"], np.float32(told["actions"]))
    for k, frame in enumerate(content["frames"]):
        np.testing.assert_array_equal(frame, np.asarray(Image.open(io.BytesIO(driver.frame("first", k)))))
        recorded = np.asarray(Image.open(io.BytesIO(driver.frame("recorded", k))))
        np.testing.assert_array_equal(content["recorded_frames"][k], recorded)


@pytest.mark.parametrize(
    ("verb", "body", "words"),
    [
        ("step", {"action": [1, 2, 3]}, "shape (3,)"),
        ("step", {"action": [9, 0, 0, 0, 0, 0, 1]}, "dx of the action is 9, outside"),
        ("step", {"action": "left"}, "'action' is 'left'"),
        ("step", {}, "'action' is None"),
        ("rewind", {"step": 7}, "no step 7"),
        ("rewind", {"step": True}, "'step' is True"),
        ("episode", {"episode": 99}, "no episode 99"),
        ("model", {"model": "../../etc/passwd"}, "no model '../../etc/passwd'"),
        ("policy", {"policy": "nobody"}, "no policy 'nobody'"),
        ("policy", {"policy": "raising"}, "raised RuntimeError: no idea"),
        ("policy", {"policy": "absent"}, "cannot be built: ModuleNotFoundError"),
        ("fly", {}, "nothing called 'fly'"),
    ],
)
def test_what_cannot_be_done_is_told_in_words_and_the_session_goes_on(server, refused, verb, body, words):
    driver = server.open()
    before = driver.act("step", action=LEFT)
    with pytest.raises(refused) as told:
        driver.act(verb, **body)
    assert told.value.status == 422 and words in told.value.problem and told.value.remedy
    assert driver.state() == before
    assert len(driver.act("step", action=UP)["actions"]) == 2


def test_a_session_of_a_model_that_is_not_there_is_refused(server, refused):
    for model in ("third", ""):
        with pytest.raises(refused) as told:
            server.open(model=model)
        assert told.value.status == 422 and f"no model {model!r}" in told.value.problem


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 9000])
def test_a_body_that_is_no_object_is_refused(server, refused, data):
    driver = server.open()
    with pytest.raises(refused) as told:
        server.raw(f"/api/sessions/{driver.id}/rewind", data)
    assert (told.value.status, told.value.problem) == (422, "the body is no JSON object")


def test_other_names_other_pages_and_large_bodies_are_refused(server, refused):
    path = f"/api/sessions/{server.open().id}/follow"
    for status, data, headers in (
        (403, None, {"Host": "rebound.example.com"}),
        (403, None, {"Host": f"rebound.example.com:{server.port}"}),
        (403, None, {"Host": "127.0.0.1.example.com"}),
        (403, b"{}", {"Origin": "http://example.com"}),
        (403, b"{}", {"Origin": "null"}),
        (403, None, {"Host": "["}),
        (403, None, {"Host": "[::1"}),
        (403, b"{}", {"Origin": "http://["}),
        (403, b"{}", {"Origin": f"http://localhost:{server.port + 1}"}),
        (415, b"{}", {"Content_Type": "text/plain"}),
        (413, b" " * 20_000, {}),
    ):
        with pytest.raises(refused) as told:
            server.raw(path, data, **headers)
        assert told.value.status == status
    assert server.raw(path, b"{}", Host=f"localhost:{server.port}", Origin=f"http://localhost:{server.port}")


def test_no_path_leads_to_a_file(server, refused, config):
    driver = server.open()
    for path in ("frames/..%2f..%2fclips/0.png", "frames/first/-1.png", "frames/first/99.png", "frames/third/0.png"):
        with pytest.raises(refused) as told:
            server.raw(f"/api/sessions/{driver.id}/{path}")
        assert told.value.status == 404
    with pytest.raises(refused) as told:
        server.raw("/api/sessions/..%2f..%2fetc")
    assert told.value.status == 404


def test_two_viewers_of_one_session_both_see_each_step(server):
    driver = server.open()
    viewers = [driver.events(), driver.events()]
    revisions = {driver.state()["revision"]}
    for action in (LEFT, UP):
        told = driver.act("step", action=action)
        for viewer in viewers:
            while (seen := viewer.next())["revision"] != told["revision"]:
                assert seen["revision"] in revisions
        revisions.add(told["revision"])
    assert driver.state()["viewers"] == 2
    viewers[0].close()
    driver.act("follow")
    while (seen := viewers[1].next())["viewers"] != 1:
        pass
    viewers[1].close()


def test_two_sessions_are_each_others_strangers(server):
    one, other = server.open(), server.open()
    one.act("step", action=LEFT)
    assert one.id != other.id and other.state()["actions"] == []


def test_a_viewer_that_leaves_amid_a_request_breaks_nothing(server):
    driver = server.open()
    body = json.dumps({"action": LEFT}).encode()
    head = (f"POST /api/sessions/{driver.id}/step HTTP/1.1\r\nHost: {server.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()  # fmt: skip
    longer = head.replace(b"Length: ", b"Length: 9")
    for sent in (head[:40], head, head + body[:10], longer + body):
        with socket.create_connection((server.host, server.port)) as connection:
            connection.sendall(sent)
    assert driver.state()["actions"] == []
    with socket.create_connection((server.host, server.port)) as connection:
        connection.sendall(head + body)  # it is done although nobody waits for the answer
    until = time.monotonic() + 10
    while not driver.state()["actions"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(driver.act("step", action=UP)["actions"]) == 2


def test_a_policy_that_hangs_is_given_up_and_another_session_goes_on(server, refused):
    stuck, free = server.open(), server.open()
    found = []

    def drive():
        with pytest.raises(refused) as told:
            stuck.act("policy", policy="hanging")
        found.append(told.value)

    waiting = threading.Thread(target=drive)
    waiting.start()
    time.sleep(0.3)
    for _ in range(3):
        free.act("follow")
        free.act("policy", policy="steady")
        stuck.state()
    assert waiting.is_alive(), "the other session waited for the policy to be given up"
    waiting.join(20)
    assert found and "gave no action within 2 s" in found[0].problem
    assert len(stuck.act("follow")["actions"]) == 1


def test_several_ask_at_once_and_everything_is_done_once(server):
    driver = server.open()
    threads = [threading.Thread(target=driver.act, args=("step",), kwargs={"action": UP}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = driver.state()
    assert len(told["actions"]) == 8 == len(told["runs"]["first"])


def test_a_port_in_use_is_told_with_its_remedy(server):
    with pytest.raises(UserError, match=rf"port {server.port} of 127\.0\.0\.1.*in use") as told:
        listen("127.0.0.1", server.port)
    assert "port=0" in told.value.args[1]
    with pytest.raises(UserError, match=r"cannot listen on port 0 of 203\.0\.113\.7"):
        listen("203.0.113.7", 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback(host):
    assert is_loopback(host) and not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.7", "localhost.example.com"]))


def test_a_server_for_everyone_that_keeps_two_sessions_and_is_ended_while_watched(refused, new_server):
    server = new_server("host=0.0.0.0", "max_sessions=2")
    first, second = server.open(), server.open()
    second.state()
    watched = second.events()  # a session that is watched is in use
    watched.next()
    server.open()
    with pytest.raises(refused) as told:
        first.state()
    assert told.value.status == 404 and "keeps the 2 used last" in told.value.problem
    watched.close()

    last = server.open()
    viewer = last.events()
    viewer.next()
    begun = time.monotonic()
    assert server.end(signal.SIGINT) == 0
    assert time.monotonic() - begun < 10
    viewer.close()
    assert "warning: listening on 0.0.0.0" in server.told[0] and len(server.told) == 2, server.told
