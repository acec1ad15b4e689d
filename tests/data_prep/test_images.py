import io

import numpy as np
import pytest
from PIL import Image

from whale.data_prep.images import BadImageError, content_digest, decode_frames


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with edges and some noise, as a camera sees."""
    dice = np.random.default_rng(seed)
    coarse = Image.fromarray(dice.integers(0, 256, (7, 7, 3), np.uint8))
    image = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    image += dice.integers(-6, 7, (height, width, 1))
    image[height // 3 : height // 2, width // 4 : width // 2] = (200, 40, 90)
    return np.clip(image, 0, 255).astype(np.uint8)


def encoded(image: np.ndarray, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("height", "width"), [(256, 256), (480, 640), (300, 400), (128, 128), (96, 130), (1080, 1920)])
@pytest.mark.parametrize("size_px", [64, 96])
def test_a_reduced_jpeg_is_close_to_the_whole_one_resized_by_area(height, width, size_px):
    raw = encoded(picture(height, width), "JPEG", quality=95, subsampling=0)
    whole = Image.open(io.BytesIO(raw)).convert("RGB").resize((size_px, size_px), Image.Resampling.BOX)
    difference = np.abs(decode_frames([raw], [0], size_px)[0].astype(int) - np.asarray(whole))
    assert difference.mean() < 2.5 and np.percentile(difference, 99) < 16


def test_stored_pixels_come_back_in_the_right_order_of_steps_and_colours():
    images = [picture(48, 64, seed) for seed in range(3)]
    raw = [encoded(image, "PNG") for image in images]
    assert np.array_equal(decode_frames(raw, [2, 0], None), np.stack([images[2], images[0]]))
    assert np.array_equal(decode_frames(raw, [1], None, bgr=True)[0], images[1][..., ::-1])
    area = images[0].reshape(24, 2, 32, 2, 3).mean((1, 3))
    small = decode_frames([encoded(np.ascontiguousarray(images[0][:, :48]), "PNG")], [0], 24)[0]
    assert np.abs(small.astype(int) - area[:, :24]).max() <= 1


def test_other_kinds_of_images_become_red_green_blue():
    image = picture(16, 16)
    grey, alpha = image[..., 0], np.dstack([image, np.full((16, 16), 7, np.uint8)])
    assert np.array_equal(decode_frames([encoded(grey, "PNG")], [0], 16)[0], np.dstack([grey] * 3))
    assert np.array_equal(decode_frames([encoded(alpha, "PNG")], [0], 16)[0], image)


def test_a_stored_orientation_is_ignored():
    turned = Image.Exif()
    turned[0x0112] = 6
    raw = encoded(picture(32, 48), "JPEG", exif=turned.tobytes())
    assert decode_frames([raw], [0], None).shape == (1, 32, 48, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_what_cannot_be_decoded_names_its_step(form):
    good = encoded(picture(64, 64), form)
    for bad in (b"", b"no image", good[: len(good) // 2]):
        with pytest.raises(BadImageError, match="step 1 cannot be decoded"):
            decode_frames([good, bad], [0, 1], 64)
    with pytest.raises(BadImageError, match="step 1 has another size"):
        decode_frames([good, encoded(picture(32, 32), form)], [0, 1], None)


def test_an_image_that_claims_to_be_huge_is_refused():
    raw = bytearray(encoded(picture(16, 16), "PNG"))
    raw[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(BadImageError, match="step 0"):
        decode_frames([bytes(raw)], [0], 16)


def test_the_digest_depends_on_every_byte_and_on_where_frames_begin():
    assert len({content_digest(images) for images in ([b"ab", b"c"], [b"a", b"bc"], [b"abc"], [b"c", b"ab"])}) == 4
