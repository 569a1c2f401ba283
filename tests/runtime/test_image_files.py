"""Image files: sizes in their headers, the limit of pixels, orientation."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.image_files import decode_image, find_images, read_image
from canthus.runtime.image_header import read_image_size

ONLY_POSIX = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)


def encode(suffix, image=IMAGE):
    return cv2.imencode(suffix, image)[1].tobytes()


def chunk(kind, content):
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width, height):
    """Return a PNG that announces more pixels than it contains."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg_header(width, height):
    content = encode(".jpg")
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def gif_header(width, height):
    content = encode(".gif")
    return content[:6] + struct.pack("<HH", width, height) + content[10:]


def bmp_header(width, height):
    content = encode(".bmp")
    return content[:18] + struct.pack("<ii", width, -height) + content[26:]


def webp_header(width, height):
    frame = b"VP8X" + struct.pack("<IIHBHB", 10, 0, *divmod(width - 1, 65536)[::-1], *divmod(height - 1, 65536)[::-1])
    return b"RIFF" + struct.pack("<I", len(frame) + 4) + b"WEBP" + frame


def tiff_header(width, height, order="<"):
    entries = struct.pack(order + "HHIIHHII", 256, 4, 1, width, 257, 4, 1, height)
    return {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 2) + entries + bytes(4)


HEADERS = [png_header, jpeg_header, gif_header, bmp_header, webp_header, tiff_header]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".gif", ".avif", ".jp2", ".ppm", ".pam"])
def test_size_is_read_from_the_header_of_each_format(suffix):
    assert read_image_size(io.BytesIO(encode(suffix))) == (56, 40)
    assert decode_image(encode(suffix), "image").shape == (40, 56, 3)


@pytest.mark.parametrize("quality", [80, 101], ids=["lossy", "lossless"])
def test_size_of_both_kinds_of_webp_is_read(quality):
    content = cv2.imencode(".webp", IMAGE, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
    assert content[12:16] == (b"VP8 " if quality == 80 else b"VP8L")
    assert read_image_size(io.BytesIO(content)) == (56, 40)


def test_size_of_a_big_endian_tiff_is_read():
    assert read_image_size(io.BytesIO(tiff_header(300, 200, ">"))) == (300, 200)


@pytest.mark.parametrize(
    ("image", "tile", "expected"),
    [
        ((40, 56), (90_000, 90_000), (90_000, 90_000)),
        ((100, 20), (16, 32), (100, 20)),
        ((20, 100), (32, 16), (20, 100)),
    ],
)
def test_tile_of_a_tiff_counts_if_it_has_more_pixels_than_the_image(image, tile, expected):
    sizes = zip((256, 257, 322, 323), (*image, *tile), strict=True)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, size) for tag, size in sizes)
    tiff = b"II*\0" + struct.pack("<IH", 8, 4) + entries + bytes(4)
    assert read_image_size(io.BytesIO(tiff)) == expected


def test_size_of_a_jpeg_is_not_that_of_its_thumbnail():
    content, thumbnail = encode(".jpg"), encode(".jpg", IMAGE[:16, :24])
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert read_image_size(io.BytesIO(content[:2] + segment + content[2:])) == (56, 40)


@pytest.mark.parametrize("make", HEADERS)
def test_image_with_too_many_pixels_is_refused_by_its_header(tmp_path, make):
    width, height = (16_000, 16_000) if make is webp_header else (30_000, 30_000)
    (tmp_path / "huge.png").write_bytes(make(width, height))
    with pytest.raises(InputError, match=rf"huge.png: too large, {width} x {height} pixels = .*CANTHUS_MAX_IMAGE_MEGA"):
        read_image(tmp_path / "huge.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif", ".gif", ".avif", ".jp2", ".ppm"])
def test_cut_header_is_one_clear_error(suffix):
    content = encode(suffix)
    for length in range(0, 60, 3):
        with pytest.raises(InputError, match=r"^image: "):
            decode_image(content[:length], "image")


def test_limit_is_an_environment_variable(monkeypatch):
    monkeypatch.setenv("CANTHUS_MAX_IMAGE_MEGAPIXELS", "0.002")
    with pytest.raises(InputError, match=r"56 x 40 pixels = 0\.002 megapixels \(expected at most 0\.002\)"):
        decode_image(encode(".png"), "image")
    for text in ("many", "-1", "0", "nan", "inf", "1e9"):
        monkeypatch.setenv("CANTHUS_MAX_IMAGE_MEGAPIXELS", text)
        with pytest.raises(InputError, match=rf"^CANTHUS_MAX_IMAGE_MEGAPIXELS: is '{text}'"):
            decode_image(encode(".png"), "image")


def test_file_that_is_larger_than_its_pixels_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CANTHUS_MAX_IMAGE_MEGAPIXELS", "0.01")
    with (tmp_path / "padded.png").open("wb") as file:
        file.write(encode(".png"))
        file.truncate(10**12)  # sparse
    with pytest.raises(InputError, match=r"padded.png: too large, 1000000 MB"):
        read_image(tmp_path / "padded.png")


def webp_with_exif(prefix):
    """Return a WebP, white at its top, whose EXIF data says that it is upside down."""
    image = np.zeros((41, 56, 3), np.uint8)
    image[:20] = 255
    frame = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()[12:]
    exif = prefix + b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0)
    canvas = b"VP8X" + struct.pack("<IB3xHBHB", 10, 8, 55, 0, 40, 0)
    chunks = canvas + frame + b"EXIF" + struct.pack("<I", len(exif)) + exif
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def test_webp_is_upright_whether_or_not_its_exif_data_has_a_prefix():
    plain, prefixed = (decode_image(webp_with_exif(prefix), "image") for prefix in (b"", b"Exif\0\0"))
    assert plain[:20].max() == 0
    assert plain[21:].min() == 255
    assert np.array_equal(plain, prefixed)


def png_with_exif(exif):
    """Return a PNG, white at its top."""
    image = np.zeros((41, 56, 3), np.uint8)
    image[:20] = 255
    content = cv2.imencode(".png", image)[1].tobytes()
    return content[:33] + chunk(b"eXIf", exif) + content[33:]


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"], ids=["plain", "prefixed"])
def test_png_is_upright_whether_or_not_its_exif_data_has_a_prefix(prefix):
    exif = prefix + b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0)
    image = decode_image(png_with_exif(exif), "image")
    assert image[:20].max() == 0
    assert image[21:].min() == 255


def test_webp_that_ends_within_its_metadata_is_decoded():
    content = webp_with_exif(b"")
    assert decode_image(content[:-3], "cut.webp").shape == (41, 56, 3)


@pytest.mark.parametrize("suffix", [".avif", ".jp2"])
def test_formats_whose_decoders_need_much_memory_have_half_the_limit(monkeypatch, suffix):
    monkeypatch.setenv("CANTHUS_MAX_IMAGE_MEGAPIXELS", "0.004")
    with pytest.raises(InputError, match=r"expected at most 0\.002"):
        decode_image(encode(suffix), "image")
    assert decode_image(encode(".png"), "image").shape == IMAGE.shape


def test_animated_webp_has_half_the_limit(monkeypatch):
    monkeypatch.setenv("CANTHUS_MAX_IMAGE_MEGAPIXELS", "0.004")
    still = webp_with_exif(b"")
    decode_image(still, "image")
    with pytest.raises(InputError, match=r"expected at most 0\.002"):
        decode_image(still[:20] + b"\x02" + still[21:], "image")


@ONLY_POSIX
def test_pipe_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="is a folder, a pipe or a device"):
        read_image(tmp_path / "pipe.png")


FLOATS = cv2.imencode(".tif", np.zeros((64, 96, 3), np.float32))[1].tobytes()
"""A TIFF of floats. OpenCV refuses it here, with a warning on stderr."""


@pytest.mark.parametrize("content", [b"", b"not an image", FLOATS], ids=["empty", "text", "floats"])
def test_unreadable_image_is_one_clear_error(tmp_path, content, capfd):
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(InputError, match="not a readable image"):
        read_image(tmp_path / "broken.png")
    assert capfd.readouterr().err == ""


def change_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x55]) + content[middle + 1 :]


def test_damaged_jpeg_is_decoded_with_a_warning_that_names_it(capfd, caplog):
    content = encode(".jpg")
    middle = len(content) // 2
    damaged = content[:middle] + b"\xff\xd9" + content[middle + 2 :]
    assert decode_image(damaged, "one.jpg").shape == IMAGE.shape
    assert [record.getMessage() for record in caplog.records] == [
        "one.jpg: is damaged (Corrupt JPEG data: premature end of data segment); the rest was decoded"
    ]
    decode_image(content, "whole.jpg")
    assert len(caplog.records) == 1
    assert capfd.readouterr().err == ""


def test_only_the_first_frame_of_an_animated_png_is_decoded(monkeypatch):
    """For the others OpenCV needs three times the memory of the limit on pixels."""
    frames = [np.full((20, 30, 3), 60 * number, np.uint8) for number in range(1, 4)]
    frames[0][5:9, 7:20] = (10, 20, 30)
    animation = cv2.Animation()
    animation.frames, animation.durations = [cv2.cvtColor(one, cv2.COLOR_RGB2BGRA) for one in frames], [100] * 3
    content = cv2.imencodeanimation(".png", animation)[1].tobytes()
    assert content.count(b"fcTL") == 3
    decoded, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decoded.append(data.tobytes()) or decode(data, flags))
    np.testing.assert_array_equal(decode_image(content, "animated.png"), frames[0])
    assert not [kind for kind in (b"acTL", b"fcTL", b"fdAT") if kind in decoded[0]]


def test_chunk_of_a_png_that_ends_after_the_file_is_not_passed_on(monkeypatch):
    """OpenCV takes the memory that its length says."""
    content = encode(".png")
    place = content.index(b"IDAT") - 4
    content = content[:place] + (2**31 + 1000).to_bytes(4) + content[place + 4 :]
    decoded, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decoded.append(data.tobytes()) or decode(data, flags))
    with pytest.raises(InputError, match=r"one\.png: not a readable image"):
        decode_image(content, "one.png")
    assert b"IDAT" not in decoded[0]


def test_refused_png_says_why_in_its_own_message(capfd):
    with pytest.raises(InputError, match=r"^one\.png: not a readable image \(IDAT: .*\)$"):
        decode_image(change_middle(encode(".png")), "one.png")
    assert capfd.readouterr().err == ""


def test_images_of_a_folder_come_sorted_without_those_of_the_output(tmp_path):
    for name in ("b.png", "a/c.JPG", "a/notes.txt", "drawn/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path, tmp_path / "drawn") == [tmp_path / "a" / "c.JPG", tmp_path / "b.png"]
    assert find_images(tmp_path / "b.png") == [tmp_path / "b.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: contains no images"):
        find_images(tmp_path / "empty")
    with pytest.raises(InputError, match="absent: no such file or folder"):
        find_images(tmp_path / "absent")


def test_images_of_other_formats_in_a_folder_are_named(tmp_path, caplog):
    for name in ("a.HEIC", "b.heic", "c.gif", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"no images .*; convert the others to .jpg or .png: 2 .heic, 1 .gif$"):
        find_images(tmp_path)
    (tmp_path / "d.png").touch()
    assert find_images(tmp_path) == [tmp_path / "d.png"]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}: left out images of other formats (2 .heic, 1 .gif); convert them to .jpg or .png"
    ]
