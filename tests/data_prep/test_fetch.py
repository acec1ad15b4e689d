"""Datasets copied from folders, memory and real web servers: kept whole through kills, faults and changes."""

import base64
import dataclasses
import hashlib
import http.server
import json
import random
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from whale.cli import main
from whale.data_prep import download
from whale.data_prep.fetch import hide
from whale.data_prep.oxe.mixtures import mixture_of
from whale.data_prep.oxe.registry import REGISTRY

PIECE = download.PIECE_BYTES


def make_dataset(folder: Path, name: str, seed: int, sizes: tuple[int, ...] = (3000, 0, 70_000)) -> Path:
    """What looks like `<name>/1.0.0`, with shards of random bytes."""
    folder.mkdir(parents=True)
    dice = random.Random(seed)
    for k, size in enumerate(sizes):
        (folder / f"{name}-train.tfrecord-{k:05d}-of-{len(sizes):05d}").write_bytes(dice.randbytes(size))
    (folder / "features.json").write_text("{}")
    (folder / "below").mkdir()
    (folder / "below/list.txt").write_text("inside")
    info = {"name": name, "splits": [{"name": "train", "shardLengths": ["1"] * len(sizes)}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "fetched.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def words(root, out, datasets, **others) -> list[str]:
    settings = {"root": root, "out": out, "datasets": json.dumps(datasets)} | others
    return ["data_prep", "fetch", *(f"{key}={value}" for key, value in settings.items())]


@pytest.fixture
def root(tmp_path) -> Path:
    make_dataset(tmp_path / "root/sim/1.0.0", "sim", 1)
    make_dataset(tmp_path / "root/sim/0.9.0", "sim", 2)
    make_dataset(tmp_path / "root/arm/0.1.0", "arm", 3, sizes=(500,))
    return tmp_path / "root"


class Server:
    """A web server of a folder: lists it, knows ranges, tells tags; does to single answers what a test asks for."""

    def __init__(self, root: Path):
        self.ranges: list[tuple[str, int]] = []
        self.trouble = lambda path, start: None
        """Called for each range: `fail` answers 503, `cut` ends half way."""
        self.password, self.with_ranges = "", True
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __init__(self, *arguments):
                super().__init__(*arguments, directory=str(root))

            def log_message(self, *_):
                pass

            def end_headers(self):
                path = Path(self.translate_path(self.path))
                if path.is_file():
                    self.send_header("ETag", hashlib.md5(path.read_bytes()).hexdigest())
                super().end_headers()

            def do_HEAD(self):
                if self.allowed():
                    super().do_HEAD()

            def allowed(self) -> bool:
                wanted = "Basic " + base64.b64encode(outer.password.encode()).decode()
                if outer.password and self.headers["Authorization"] != wanted:
                    self.send_error(401)
                    return False
                return True

            def do_GET(self):
                path = Path(self.translate_path(self.path))
                if not self.allowed():
                    return
                if not path.is_file() or "Range" not in self.headers or not outer.with_ranges:
                    super().do_GET()
                    return
                start, stop = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                outer.ranges.append((path.name, start))
                trouble = outer.trouble(path.name, start)
                if trouble == "fail":
                    self.send_error(503)
                    return
                piece = path.read_bytes()[start : stop + 1]
                self.send_response(206)
                self.send_header("Content-Length", str(len(piece)))
                self.end_headers()
                self.wfile.write(piece[: len(piece) // 2] if trouble == "cut" else piece)
                self.close_connection = trouble == "cut"

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.address = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def asked_for(self) -> list[tuple[str, int]]:
        """Name and first byte of what was read, but for the file that is looked into before anything is fetched."""
        return [(name, first) for name, first in self.ranges if name != "dataset_info.json"]

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(root):
    server = Server(root)
    yield server
    server.close()


@pytest.fixture
def memory(root) -> str:
    files = fsspec.filesystem("memory")
    for name, content in bytes_of(root).items():
        files.pipe(f"/datasets/{name}", content)
    yield "memory://datasets"
    files.rm("/datasets", recursive=True)


def test_a_folder_and_a_file_address_and_memory_give_the_bytes_of_the_source(root, memory, tmp_path, capsys):
    for number, address in enumerate((root, f"file://{root}", memory)):
        out = tmp_path / str(number)
        assert main(words(address, out, {"sim": None, "arm": "0.1.0"}, workers=3)) == 0
        assert bytes_of(out / "sim/1.0.0") == bytes_of(root / "sim/1.0.0")
        assert bytes_of(out / "arm/0.1.0") == bytes_of(root / "arm/0.1.0")
        assert sorted(path.name for path in out.iterdir()) == ["arm", "sim"]
        listed = json.loads((out / "sim/1.0.0/fetched.json").read_text())["files"]
        assert {name: (one["num_bytes"], one["sha256"]) for name, one in listed.items()} == {
            name: (len(content), hashlib.sha256(content).hexdigest())
            for name, content in bytes_of(root / "sim/1.0.0").items()
        }
        assert "sim/1.0.0: 6 files, 73.1 kB; to fetch: 6 files, 73.1 kB" in capsys.readouterr().out


def test_a_second_fetch_reads_and_writes_nothing(whale, server, root, tmp_path):
    settings = {"root": server.address, "out": tmp_path / "out", "datasets": '{"sim": null}'}
    assert whale("fetch", **settings).code == 0
    assert bytes_of(tmp_path / "out/sim/1.0.0") == bytes_of(root / "sim/1.0.0")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert sorted(name for name, _ in server.asked_for()) == ["features.json", "list.txt", *(
        f"sim-train.tfrecord-{k:05d}-of-00003" for k in (0, 2))]  # one of the shards is empty
    count = len(server.asked_for())
    ran = whale("fetch", **settings)
    assert ran.code == 0 and "to fetch: 0 files, 0 bytes" in ran.out
    assert len(server.asked_for()) == count
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_telling_writes_nothing(root, tmp_path, capsys):
    assert main(words(root, tmp_path / "out", {"sim": "0.9.0"}, tell_only=True)) == 0
    assert "sim/0.9.0: 6 files" in (said := capsys.readouterr().out) and "free in" in said
    assert not (tmp_path / "out").exists()


def test_a_kill_within_a_file_loses_one_piece_at_most(start, whale, tmp_path):
    root = tmp_path / "root"
    make_dataset(root / "big/1.0.0", "big", 0, sizes=(2 * PIECE + 5,))
    server, reached = Server(root), threading.Event()
    settings = {"root": server.address, "out": tmp_path / "out", "datasets": '{"big": null}', "workers": 1}
    shard = "big-train.tfrecord-00000-of-00001"

    def hold(path, first):
        if (path, first) == (shard, 2 * PIECE) and not reached.is_set():
            reached.set()
            time.sleep(60)

    server.trouble = hold
    started = start("fetch", **settings)
    assert reached.wait(60)
    started.kill()
    assert not (tmp_path / "out/big/1.0.0" / shard).exists()
    count = len(server.ranges)
    ran = whale("fetch", **settings)
    assert ran.code == 0, ran.err
    assert [asked for asked in server.ranges[count:] if asked[0] == shard] == [(shard, 2 * PIECE)]
    assert bytes_of(tmp_path / "out/big/1.0.0") == bytes_of(root / "big/1.0.0")
    server.with_ranges = False
    ran = whale("fetch", **settings | {"out": tmp_path / "other"})
    assert ran.code == 2 and "sends more than was asked for" in ran.err and shard in ran.err
    assert not (tmp_path / "other/big/1.0.0" / shard).exists()
    server.close()


def test_kills_at_random_moments_and_before_each_name(start, whale, server, root, tmp_path):
    out, dice = tmp_path / "out", random.Random(0)
    settings = {"root": server.address, "out": out, "datasets": '{"sim": null}', "workers": 2}
    server.trouble = lambda *_: time.sleep(0.1)
    for _ in range(2):
        before = len(server.ranges)
        started = start("fetch", **settings)
        while len(server.ranges) == before:
            assert started.process.poll() is None
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.15))
        started.kill()
        for name, content in bytes_of(out).items():
            assert ".tmp-" in name or content == (root / name).read_bytes()
    for name in ("sim-train.tfrecord-00002-of-00003", "fetched.json"):
        (out / "sim/1.0.0" / name).unlink(missing_ok=True)
        start("fetch", before=name, **settings).kill()
        assert not (out / "sim/1.0.0" / name).exists()
    assert whale("fetch", **settings).code == 0
    assert bytes_of(out) == {name: content for name, content in bytes_of(root).items() if name.startswith("sim/1.0.0")}


def test_what_was_published_but_not_listed_is_not_fetched_again(start, whale, server, root, tmp_path):
    settings = {"root": server.address, "out": tmp_path / "out", "datasets": '{"arm": null}', "workers": 1}
    start("fetch", before="list.txt", **settings).kill()  # the first file of all
    ran = whale("fetch", **settings)
    assert ran.code == 0, ran.err
    listed = tmp_path / "out/arm/0.1.0/fetched.json"
    whole = json.loads(listed.read_text())
    parts = json.loads(listed.read_text())
    for one in parts["files"].values():
        one["sha256"] = None  # as it is listed before the first file
    listed.write_text(json.dumps(parts))
    count = len(server.asked_for())
    assert whale("fetch", **settings).code == 0
    assert (len(server.asked_for()), json.loads(listed.read_text())) == (count, whole)


def test_answers_that_fail_or_are_cut_off_are_asked_for_again_and_counted(whale, server, root, tmp_path):
    troubles = {"sim-train.tfrecord-00000-of-00003": ["fail"], "sim-train.tfrecord-00002-of-00003": ["cut", "fail"]}
    server.trouble = lambda path, _: troubles[path].pop() if troubles.get(path) else None
    ran = whale("fetch", root=server.address, out=tmp_path / "out", datasets='{"sim": null}')
    assert ran.code == 0 and "3 reads were tried again" in ran.err
    assert bytes_of(tmp_path / "out/sim/1.0.0") == bytes_of(root / "sim/1.0.0")


def test_a_changed_file_is_told_and_fetched_again(whale, start, server, root, tmp_path):
    out, name = tmp_path / "out", "arm-train.tfrecord-00000-of-00001"
    settings = {"root": server.address, "out": out, "datasets": '{"arm": null}'}
    assert whale("fetch", **settings).code == 0
    source = root / "arm/0.1.0" / name
    source.write_bytes(bytes(len(source.read_bytes())))  # of the same size
    start("fetch", before=name, **settings).kill()  # the old one must not be taken for the new one
    ran = whale("fetch", **settings)
    assert ran.code == 0
    assert (out / "arm/0.1.0" / name).read_bytes() == source.read_bytes()
    source.write_bytes(b"shorter")
    (root / "arm/0.1.0/below/list.txt").unlink()
    ran = whale("fetch", **settings)
    assert f"1 files changed at the source since they were listed, and are fetched again: {name}" in ran.out
    assert "1 files no longer at the source, and kept here: below/list.txt" in ran.out
    assert (out / "arm/0.1.0" / name).read_bytes() == b"shorter" and (out / "arm/0.1.0/below/list.txt").exists()


def test_the_newest_version_is_by_number_and_one_that_the_registry_knows(root, tmp_path, capsys):
    make_dataset(root / "sim/0.10.0", "sim", 5)
    assert main(words(root, tmp_path / "out", {"sim": None}, tell_only=True)) == 0
    assert "sim/1.0.0" in capsys.readouterr().out
    (root / "sim/1.0.0").rename(root / "sim/0.2.0")
    assert main(words(root, tmp_path / "out", {"sim": None}, tell_only=True)) == 0
    assert "sim/0.10.0" in capsys.readouterr().out
    make_dataset(root / "tiny/7.0.0", "tiny", 5)
    assert main(words(root, tmp_path / "out", {"nothing": None})) == 2
    assert "nothing is no folder of versions" in capsys.readouterr().err


def test_a_mixture_is_fetched_by_its_name_and_all_that_is_missing_is_told(root, tmp_path, capsys):
    make_dataset(root / "viola/0.1.0", "viola", 5)
    absent = set(mixture_of("rt_x")) - {"viola"}
    command = [*words(root, tmp_path / "out", {})[:-1], "datasets=rt_x"]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"{len(absent)} of {len(absent) + 1} datasets cannot be fetched:" in said
    assert all(f"{root / name} is no folder of versions" in said for name in absent)
    for number, name in enumerate(absent):
        make_dataset(root / name / (REGISTRY[name].versions or ("0.1.0",))[0], name, number)
    assert main([*command, "tell_only=true"]) == 0
    assert "viola/0.1.0: 6 files" in capsys.readouterr().out


def test_the_registry_decides_between_versions(root, tmp_path, capsys, monkeypatch):
    known = dataclasses.replace(next(iter(REGISTRY.values())), versions=("0.9.0", "3.0.0"))
    monkeypatch.setitem(REGISTRY, "sim", known)
    assert main(words(root, tmp_path / "out", {"sim": None}, tell_only=True)) == 0
    assert "sim/0.9.0: 6 files" in capsys.readouterr().out
    monkeypatch.setitem(REGISTRY, "sim", dataclasses.replace(known, versions=("3.0.0",)))
    assert main(words(root, tmp_path / "out", {"sim": None})) == 2
    assert "has the versions 0.9.0, 1.0.0; the registry has facts of 3.0.0" in capsys.readouterr().err


def pointer(folder: Path):
    (folder / "sim-train.tfrecord-00001-of-00003").write_text("version https://git-lfs.github.com/spec/v1\noid x\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pointer, "sim-train.tfrecord-00001-of-00003 is a Git-LFS pointer"),
        (lambda folder: (folder / "sim-train.tfrecord-00001-of-00003").unlink(), "has 2 of the 3 shards of train"),
        (lambda folder: (folder / "dataset_info.json").unlink(), "it has no dataset_info.json"),
        (lambda folder: (folder / "dataset_info.json").write_text("{"), "dataset_info.json is not valid JSON"),
    ],
)
def test_what_is_not_whole_at_the_source_is_refused(root, tmp_path, capsys, spoil, message):
    spoil(root / "sim/1.0.0")
    assert main(words(root, tmp_path / "out", {"sim": None})) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/sim/1.0.0/sim-train.tfrecord-00001-of-00003").exists()


def test_more_than_there_is_room_for_is_refused_before_the_first_byte(root, tmp_path, capsys):
    with (root / "sim/1.0.0/features.json").open("r+b") as file:
        file.truncate(1 << 43)  # sparse
    assert main(words(root, tmp_path / "out", {"sim": None})) == 2
    assert "8.796 TB are to be fetched" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_credentials_in_an_address_are_shown_nowhere(whale, server, tmp_path):
    server.password = "reader:ge%heim"
    secret = "ge%25heim"
    address = f"http://reader:{secret}@{server.host}"
    settings = {"root": address, "out": tmp_path / "out", "datasets": '{"sim": null}'}
    ran = whale("fetch", **settings)
    assert ran.code == 0, ran.err
    server.trouble = lambda *_: "fail"
    others = [
        whale("fetch", **settings | {"datasets": '{"absent": null}'}),
        whale("fetch", **settings | {"datasets": '{"absent": "1.0.0"}'}),
        whale("fetch", **settings | {"root": f"http://wrong:{secret}@{server.host}"}),
        whale("fetch", **settings | {"root": f"http://reader:{secret}@127.0.0.1:1"}),
    ]
    assert [one.code for one in others] == [2] * 4
    assert "***@" in others[0].err
    listed = (tmp_path / "out/sim/1.0.0/fetched.json").read_text()
    for text in (listed, *(text for one in (ran, *others) for text in (one.out, one.err))):
        assert "heim" not in text and "reader:" not in text


def test_credentials_are_hidden_in_all_forms():
    address = "s3://key:a%2Fb@bucket/x?token=123"
    assert hide(f"{address} a/b a%2Fb 123", address) == "s3://***@bucket/x?*** *** *** 123"
    assert hide("gs://bucket/x is missing", "gs://bucket/x") == "gs://bucket/x is missing"


class Told(MemoryFileSystem):
    """Memory that tells MD5 checksums, as gs:// does, and may fail."""

    protocol = "told"
    store: dict = {}  # noqa: RUF012
    wrong, fails = "", 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("told://"))

    def find(self, path, detail=False, **others):
        found = super().find(path, detail=detail, **others)
        for name, told in found.items() if detail else ():
            md5 = hashlib.md5(self.cat_file(name) + self.wrong.encode())
            told["md5Hash"] = base64.b64encode(md5.digest()).decode()
        return found

    def cat_file(self, path, start=None, end=None, **others):
        if "features.json" in path and start is not None and Told.fails:
            Told.fails -= 1
            raise ConnectionResetError("by peer")
        return super().cat_file(path, start, end, **others)


@pytest.fixture
def told(root, monkeypatch):
    fsspec.register_implementation("told", Told, clobber=True)
    files = fsspec.filesystem("told")
    for name, content in bytes_of(root).items():
        files.pipe(f"/datasets/{name}", content)
    monkeypatch.setattr(download, "WAITS_SEC", (0.0, 0.0))
    yield Told
    files.rm("/datasets", recursive=True)


def test_a_checksum_that_the_source_tells_is_compared(told, root, tmp_path, capsys, monkeypatch):
    assert main(words("told://datasets", tmp_path / "out", {"arm": None})) == 0
    assert bytes_of(tmp_path / "out/arm/0.1.0") == bytes_of(root / "arm/0.1.0")
    monkeypatch.setattr(Told, "wrong", "x")
    assert main(words("told://datasets", tmp_path / "other", {"arm": None})) == 2
    assert "did not come with the MD5 checksum" in capsys.readouterr().err
    assert not any(bytes_of(tmp_path / "other"))


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_kept(told, root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Told, "fails", 3)
    assert main(words("told://datasets", tmp_path / "out", {"arm": None})) == 2
    said = capsys.readouterr().err
    assert "features.json cannot be read: ConnectionResetError: by peer" in said and "the same command goes on" in said
    assert len(bytes_of(tmp_path / "out/arm/0.1.0")) == 3 + 1  # with a temporary one
    assert main(words("told://datasets", tmp_path / "out", {"arm": None})) == 0
    assert bytes_of(tmp_path / "out/arm/0.1.0") == bytes_of(root / "arm/0.1.0")
