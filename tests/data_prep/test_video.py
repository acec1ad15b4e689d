import os
import pickle
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_video import join_videos, number_in, write_video

from whale.data_prep.images import BadImageError, decode_frames
from whale.data_prep.video import VideoFrames, by_av, by_decord, container_info, episode_frames

FRANKA = Path(__file__).parents[2] / "../shared/data/franka_usb_lerobot/videos/chunk-000"
QUIET = {"x265-params": "log-level=none"}
FILES = {
    "plain": {},
    "b_frames": {"options": {"bf": "5", "b-pyramid": "normal"}},
    "odd_size": {"height": 47, "width": 63, "pixels": "yuv444p"},
    "all_keys": {"gop": 1},
    "one_key": {"gop": 1000},
    "open_gops": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3"}},
    "uneven_gops": {"options": {"x264-params": "keyint=30:min-keyint=1:scenecut=80"}},
    "uneven_rate": {"times": np.cumsum(np.random.default_rng(0).integers(20, 90, 97)).tolist()},
    "av1": {"codec": "libsvtav1", "gop": 2, "options": {"preset": "12", "svtav1-params": "enable-overlays=0"}},
    "hevc": {"codec": "libx265", "options": QUIET},
    "vp9": {"codec": "libvpx-vp9"},
    "mpeg4": {"codec": "mpeg4"},
}
H264 = [name for name, settings in FILES.items() if "codec" not in settings]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    for name, settings in FILES.items():
        write_video(folder / f"{name}.mp4", range(97), **settings)
    # As root, SVT-AV1 leaves the thread that called it at the highest real-time priority: nothing else would run.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return {name: folder / f"{name}.mp4" for name in FILES}


@pytest.fixture
def plain(files, tmp_path) -> Path:
    copy = tmp_path / "plain.mp4"
    copy.write_bytes(files["plain"].read_bytes())
    return copy


def test_encoding_leaves_the_priority_of_the_process_alone(files):
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.parametrize("name", FILES)
def test_a_frame_is_the_one_that_was_asked_for(files, name):
    random = np.random.default_rng(1)
    for first in (0, 5, 60):
        video = VideoFrames(str(files[name]), first, 97 - first)
        wishes = [range(len(video)), range(0, len(video), 4), [len(video) - 1], [0], [7, 3, 3, 20]]
        wishes += [random.integers(0, len(video), 5).tolist() for _ in range(4)]
        for which in wishes:
            frames = video.decode(which, None)
            assert [number_in(frame) for frame in frames] == [first + step for step in which]


@pytest.mark.parametrize("name", FILES)
def test_a_seek_changes_no_pixel(files, name):
    path = str(files[name])
    in_order = np.stack(list(by_av(path, range(97))))
    for wanted in ([0, 50], [11], [12], [13], [23, 24], [25, 90], [96]):
        np.testing.assert_array_equal(np.stack(list(by_av(path, wanted))), in_order[wanted])


@pytest.mark.parametrize("name", H264)
def test_both_decoders_give_the_same_pixels(files, name):
    path = str(files[name])
    np.testing.assert_array_equal(np.stack(list(by_decord(path, range(97)))), np.stack(list(by_av(path, range(97)))))


@pytest.mark.parametrize("camera", ["right_cam", "wrist_cam"])
def test_both_decoders_give_the_same_pixels_of_real_videos(camera):
    if not FRANKA.is_dir():
        pytest.skip("the Franka folder (../shared/data/franka_usb_lerobot) is not here")
    for episode in (0, 31):
        path = str(FRANKA / f"observation.images.{camera}" / f"episode_{episode:06d}.mp4")
        everything = range(len(container_info(path).times))
        ours, theirs = list(by_decord(path, everything)), list(by_av(path, everything))
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(np.stack(list(by_av(path, everything[::4]))), np.stack(ours)[::4])


def test_decord_is_asked_for_nothing_that_it_cannot(files, monkeypatch):
    """It gives other frames where GOPs are open, without a word: a seek must go to PyAV."""
    list(by_decord(str(files["plain"]), range(1)))
    import decord

    def refuse(*_):
        raise AssertionError("decord was made to seek")

    for name in ("seek", "seek_accurate", "skip_frames"):
        monkeypatch.setattr(decord.VideoReader, name, refuse)
    seen = []
    batch = decord.VideoReader.get_batch
    monkeypatch.setattr(decord.VideoReader, "get_batch", lambda self, which: seen.extend(which) or batch(self, which))
    video = VideoFrames(str(files["open_gops"]), 0, 97)
    for which in (range(97), range(0, 97, 4), [50], [3, 4, 5]):
        video.decode(which, None)
    assert seen == list(range(97))


def test_decord_does_not_spoil_png_for_the_process(files):
    script = (
        "import io, sys\nimport numpy as np\nfrom whale.data_prep.images import decode_frames\n"
        "from whale.data_prep.video import by_decord\nfrom PIL import Image\n"
        f"list(by_decord({str(files['plain'])!r}, range(3)))\nassert 'decord' in sys.modules\n"
        "file = io.BytesIO()\nImage.fromarray(np.full((48, 80, 3), 7, np.uint8)).save(file, 'png')\n"
        "assert (decode_frames([file.getvalue()], [0], None) == 7).all()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_frames_are_resized_as_images_are(files):
    video = VideoFrames(str(files["plain"]), 3, 9)
    import cv2

    images = [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in video.decode(range(9), None)]
    for size_px in (16, 40, 48, 100):
        np.testing.assert_array_equal(video.decode([0, 8], size_px), decode_frames(images, [0, 8], size_px))
    swapped = decode_frames(video, [0, 8], 16, bgr=True)
    np.testing.assert_array_equal(swapped, video.decode([0, 8], 16)[..., ::-1])


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_says_of_itself(files, name):
    found, settings = container_info(str(files[name])), FILES[name]
    codec = {"libx264": "h264", "libsvtav1": "av1", "libx265": "hevc", "libvpx-vp9": "vp9", "mpeg4": "mpeg4"}
    assert (found.codec, len(found.times)) == (codec[settings.get("codec", "libx264")], 97)
    assert (found.height, found.width) == (settings.get("height", 48), settings.get("width", 80))
    times = settings.get("times", [0, 96 * 50])
    assert found.fps == pytest.approx(96 / (times[-1] - times[0]) * 1000, rel=1e-3)


@pytest.mark.parametrize("options", [None, {"bf": "5"}])
def test_a_digest_stays_with_its_frames_when_videos_are_joined(tmp_path, options):
    parts = [tmp_path / f"{i}.mp4" for i in range(3)]
    lengths = [30, 41, 25]
    for i, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        write_video(part, range(100 * i, 100 * i + length), options=options)
    starts = join_videos(parts, tmp_path / "joined.mp4")
    digests = set()
    for i, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        inside, told = episode_frames(str(tmp_path / "joined.mp4"), length, starts[i], starts[i + 1])
        assert told["video_frames"] == length
        assert [number_in(frame) for frame in inside.decode([0, length - 1], None)] == [100 * i, 100 * i + length - 1]
        assert inside.digest() == VideoFrames(str(part), 0, length).digest()
        digests.add(inside.digest())
    assert len(digests) == 3


def test_a_digest_tells_other_frames(files):
    path = str(files["plain"])
    ranges = [(0, 97), (0, 96), (1, 96), (12, 12), (24, 12)]
    assert len({VideoFrames(path, *one).digest() for one in ranges}) == len(ranges)


def test_a_video_may_have_more_frames_than_rows_but_not_fewer(files):
    video, told = episode_frames(str(files["plain"]), 96)
    assert (video.first, len(video), told["video_frames"], told["rows"], told["video_fps"]) == (0, 96, 97, 96, 20.0)
    with pytest.raises(BadImageError, match=r"plain.mp4 has 97 frames for 98 rows"):
        episode_frames(str(files["plain"]), 98)
    with pytest.raises(BadImageError, match=r"has 20 frames for 21 rows"):
        episode_frames(str(files["plain"]), 21, 1.0, 2.0)


def test_it_can_be_sent_to_another_process(files):
    video = VideoFrames(str(files["plain"]), 3, 9)
    assert pickle.loads(pickle.dumps(video)) == video


def test_a_file_that_is_no_video_is_named(tmp_path, plain):
    (tmp_path / "text.mp4").write_text("version https://git-lfs.github.com/spec/v1\n")
    for path in (tmp_path / "none.mp4", tmp_path / "text.mp4", tmp_path):
        with pytest.raises(BadImageError, match=str(path)):
            container_info(str(path))
    whole = plain.read_bytes()
    for stop in (0, 10, len(whole) // 2):
        plain.write_bytes(whole[:stop])
        with pytest.raises(BadImageError, match=r"plain.mp4 .*damaged"):
            VideoFrames(str(plain), 0, 97).decode(range(97), 16)
    with pytest.raises(BadImageError, match="needed are 90 to 99"):
        plain.write_bytes(whole)
        VideoFrames(str(plain), 90, 10).decode([0], 16)


def test_damage_is_told_or_stays_in_its_frames(plain):
    """h264 carries no checksums: what a decoder cannot see it cannot tell. But it never moves the frames behind it."""
    whole = plain.read_bytes()
    with av.open(str(plain)) as file:
        packets = [(one.pos, one.size) for one in file.demux(file.streams.video[0]) if one.size]
    told = 0
    for seed in range(30):
        random = np.random.default_rng(seed)
        position, size = packets[random.integers(1, 60)]
        damaged = bytearray(whole)
        place = position + int(random.integers(0, size))
        damaged[place : place + 20] = random.bytes(20)
        plain.write_bytes(damaged)
        for which in (range(97), range(0, 97, 4)):
            try:
                frames = VideoFrames(str(plain), 0, 97).decode(which, None)
            except BadImageError:
                told += 1
            else:
                assert number_in(frames[-1]) == 96
    assert told
