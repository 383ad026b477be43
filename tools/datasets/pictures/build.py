"""Draws small image files of every kind, and records the pixels that Pillow reads from them. Usage: build.py OUT

Writes the images to OUT, what flipk must read from each to OUT/expected.json, and their pixels to OUT/expected.rgb.gz
(RGB8, one image after the other in the order of expected.json). The same version of Pillow gives the same bytes.
"""

import argparse
import gzip
import io
import json
import random
import struct
import zlib
from pathlib import Path

import PIL
from PIL import Image, ImageDraw, ImageOps, features

WIDTH, HEIGHT = 32, 24
# Largest and mean difference per channel. Decoders of lossy formats differ in rounding and in chroma upsampling.
EXACT, ROUNDED, LOSSY, SUBSAMPLED = (0, 0), (2, 0.6), (4, 1.0), (24, 2.5)
# Where flipk differs from Pillow on purpose: it rejects what Pillow reads, or the other way round.
OTHERWISE = {
    "jpeg-no-end-zeros-behind.jpg": "zeros in place of the end are a cut file that was padded",
    "jpeg-bytes-before.jpg": "a few bytes before the start do no harm",
    "png-wrong-checksum.png": "a wrong checksum means damaged pixels",
    "tiff-palette.tif": "palettes in TIFF are not read",
}


def picture(width: int = WIDTH, height: int = HEIGHT, seed: int = 1) -> Image.Image:
    """Colour gradients, shapes with edges, and a little noise."""
    rng = random.Random(seed)
    image = Image.new("RGB", (width, height))
    pixels = image.load()
    for y in range(height):
        for x in range(width):
            slope = (255 * x // width, 255 * y // height, 255 * (width - x + y) // (width + height))
            pixels[x, y] = tuple(min(255, max(0, c + rng.randint(-6, 6))) for c in slope)
    draw = ImageDraw.Draw(image)
    draw.ellipse((width // 8, height // 4, width // 2, height * 3 // 4), fill=(230, 40, 30))
    draw.rectangle((width * 5 // 8, height // 8, width * 7 // 8, height // 2), fill=(20, 60, 220))
    return image


def transparent(image: Image.Image) -> Image.Image:
    alpha = Image.linear_gradient("L").resize(image.size)
    return Image.merge("RGBA", (*image.split(), alpha))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


def segment(code: int, content: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(content) + 2) + content


def inserted(jpeg: bytes, *segments: bytes) -> bytes:
    """`jpeg` with segments after its start marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def jpegs():
    image = picture()
    good = saved(image, "JPEG", quality=90)
    film = bytes(random.Random(5).getrandbits(8) for _ in range(3000))
    for name, sampling in (("444", 0), ("422", 1), ("420", 2)):
        tolerance = LOSSY if sampling == 0 else SUBSAMPLED
        yield f"jpeg-{name}.jpg", saved(image, "JPEG", quality=90, subsampling=sampling), tolerance
        progressive = saved(image, "JPEG", quality=90, subsampling=sampling, progressive=True)
        yield f"jpeg-{name}-progressive.jpg", progressive, tolerance
    yield "jpeg-grey.jpg", saved(image.convert("L"), "JPEG"), LOSSY
    yield "jpeg-optimised.jpg", saved(image, "JPEG", optimize=True, subsampling=0), LOSSY
    yield "jpeg-quality-10.jpg", saved(image, "JPEG", quality=10), SUBSAMPLED
    yield "jpeg-restarts.jpg", saved(image, "JPEG", restart_marker_blocks=1, subsampling=0), LOSSY
    yield "jpeg-restarts-progressive.jpg", saved(image, "JPEG", restart_marker_rows=1, progressive=True), SUBSAMPLED
    yield "jpeg-rgb.jpg", saved(image, "JPEG", keep_rgb=True), LOSSY
    cmyk = saved(image.convert("CMYK"), "JPEG", quality=95)
    yield "jpeg-cmyk.jpg", cmyk, LOSSY
    adobe = cmyk.index(b"Adobe")
    yield "jpeg-cmyk-unmarked.jpg", cmyk[: adobe - 4] + cmyk[adobe + 12 :], LOSSY
    yield "jpeg-ycck.jpg", cmyk[: adobe + 11] + b"\x02" + cmyk[adobe + 12 :], LOSSY
    for size in ((1, 1), (17, 13), (8, 40)):
        yield f"jpeg-{size[0]}x{size[1]}.jpg", saved(picture(*size), "JPEG"), SUBSAMPLED
    thumbnail = segment(0xE1, b"Exif\0\0" + saved(picture(8, 8, 2), "JPEG"))
    yield "jpeg-thumbnail.jpg", inserted(good, thumbnail), SUBSAMPLED
    comment = saved(image, "JPEG", comment=b"\xff\xd9 \xff\xda", icc_profile=b"no profile" * 9)
    yield "jpeg-comment-profile.jpg", comment, SUBSAMPLED
    yield "jpeg-two-pictures.jpg", saved(image, "MPO", save_all=True, append_images=[picture(seed=3)]), SUBSAMPLED
    yield "jpeg-film-behind.jpg", good + b"\0\0\0\x18ftypmp42" + film + b"\xff\xda" + film[:50], SUBSAMPLED
    yield "jpeg-text-behind.jpg", good + b"\n<!-- cached -->\n", SUBSAMPLED
    yield "jpeg-zeros-behind.jpg", good + bytes(500), SUBSAMPLED
    yield "jpeg-stray-byte-before-end.jpg", good[:-2] + b"\x7f" + good[-2:], SUBSAMPLED
    yield "jpeg-fill-bytes.jpg", good[:2] + b"\xff\xff" + good[2:-2] + b"\xff\xff" + good[-2:], SUBSAMPLED
    yield "jpeg-stray-bytes-between.jpg", inserted(good, segment(0xFE, b"x") + b"\x00\x11\x22"), SUBSAMPLED
    yield "jpeg-no-end.jpg", good[:-2], SUBSAMPLED
    yield "jpeg-no-end-zeros-behind.jpg", good[:-2] + bytes(200), SUBSAMPLED
    yield "jpeg-cut.jpg", good[: len(good) * 7 // 10], SUBSAMPLED
    yield "jpeg-cut-thumbnail.jpg", inserted(good, thumbnail)[: len(good) + len(thumbnail) - 300], SUBSAMPLED
    yield "jpeg-bytes-before.jpg", b"\r\n" + good, SUBSAMPLED
    for value in range(1, 9):
        yield f"jpeg-turned-{value}.jpg", saved(image, "JPEG", exif=turned(value), subsampling=0), LOSSY


def png(width: int, height: int, depth: int, colour: int, interlaced: bool = False, chunks: tuple = (),
        seed: int = 7) -> bytes:
    """A PNG of random samples, written here because Pillow cannot write most of these kinds."""
    rng = random.Random(seed)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = [[[rng.getrandbits(depth) for _ in range(channels)] for _ in range(width)] for _ in range(height)]

    def rows(xs: range, ys: range) -> bytes:
        out = b""
        for y in ys if len(xs) else ():
            bits = "".join(f"{sample:0{depth}b}" for x in xs for sample in samples[y][x])
            bits += "0" * (-len(bits) % 8)
            out += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
        return out

    passes = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
    grids = passes if interlaced else ((0, 1, 0, 1),)
    data = b"".join(rows(range(x, width, dx), range(y, height, dy)) for x, dx, y, dy in grids)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return png_of((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b""))


def png_of(*chunks: tuple) -> bytes:
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        out += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return out


def pngs():
    palette = bytes(random.Random(9).getrandbits(8) for _ in range(768))
    kinds = ((0, "grey", (1, 2, 4, 8, 16)), (2, "rgb", (8, 16)), (4, "grey-alpha", (8, 16)), (6, "rgba", (8, 16)))
    for colour, name, depths in kinds:
        for depth in depths:
            # Pillow truncates 16 bits to the upper 8; flipk rounds.
            tolerance = EXACT if depth < 16 and colour < 4 else ROUNDED
            yield f"png-{name}-{depth}.png", png(13, 11, depth, colour), tolerance
            yield f"png-{name}-{depth}-interlaced.png", png(13, 11, depth, colour, True), tolerance
    for depth in (1, 2, 4, 8):
        table = (b"PLTE", palette[: 3 << depth])
        yield f"png-palette-{depth}.png", png(13, 11, depth, 3, chunks=(table,)), EXACT
        transparent_png = png(13, 11, depth, 3, True, (table, (b"tRNS", b"\x00\x80")))
        yield f"png-palette-{depth}-transparent.png", transparent_png, ROUNDED
    yield "png-grey-transparent.png", png(13, 11, 8, 0, chunks=((b"tRNS", b"\0\x05"),)), EXACT
    yield "png-rgb-transparent.png", png(13, 11, 8, 2, chunks=((b"tRNS", b"\0\x05\0\x06\0\x07"),)), EXACT
    yield "png-gamma.png", png(13, 11, 8, 2, chunks=((b"gAMA", struct.pack(">I", 100_000)),)), EXACT
    yield "png-broken-profile.png", png(13, 11, 8, 2, chunks=((b"iCCP", b"x\0\0broken"),)), EXACT
    good = saved(picture(), "PNG")
    yield "png-animated.png", saved(picture(), "PNG", save_all=True, append_images=[picture(seed=3)]), EXACT
    yield "png-turned-6.png", saved(picture(), "PNG", exif=turned(6)), EXACT
    yield "png-no-end.png", good[:-12], EXACT
    yield "png-half-an-end.png", good[:-5], EXACT
    yield "png-no-checksum.png", good[:-16], EXACT
    yield "png-zeros-behind.png", good + bytes(100), EXACT
    yield "png-cut.png", good[: len(good) // 2], EXACT
    bad = good.index(b"IDAT") + 4 + struct.unpack(">I", good[good.index(b"IDAT") - 4 : good.index(b"IDAT")])[0]
    yield "png-wrong-checksum.png", good[:bad] + b"\0\0\0\0" + good[bad + 4 :], EXACT


def webps():
    image = picture()
    yield "webp-lossy.webp", saved(image, "WEBP", quality=80), SUBSAMPLED
    yield "webp-lossless.webp", saved(image, "WEBP", lossless=True), EXACT
    yield "webp-lossy-alpha.webp", saved(transparent(image), "WEBP", quality=80), SUBSAMPLED
    yield "webp-lossless-alpha.webp", saved(transparent(image), "WEBP", lossless=True, exact=True), ROUNDED
    animated = saved(image, "WEBP", lossless=True, save_all=True, append_images=[picture(seed=3)])
    yield "webp-animated.webp", animated, EXACT
    yield "webp-turned-8.webp", saved(image, "WEBP", lossless=True, exif=turned(8)), EXACT
    good = saved(image, "WEBP", lossless=True)
    yield "webp-zeros-behind.webp", good + bytes(100), EXACT
    yield "webp-cut.webp", good[: len(good) // 2], EXACT


def gifs():
    image = picture().quantize(64)
    good = saved(image, "GIF")
    yield "gif-plain.gif", good, EXACT
    yield "gif-named.jpg", good, EXACT
    yield "gif-not-interlaced.gif", saved(image, "GIF", interlace=False), EXACT
    yield "gif-grey.gif", saved(picture().convert("L"), "GIF"), EXACT
    yield "gif-bilevel.gif", saved(picture().convert("1"), "GIF"), EXACT
    yield "gif-transparent.gif", saved(image, "GIF", transparency=image.getpixel((0, 0))), EXACT
    yield "gif-animated.gif", saved(image, "GIF", save_all=True, append_images=[picture(seed=3).quantize(64)]), EXACT
    yield "gif-no-trailer.gif", good[:-1], EXACT
    yield "gif-zeros-behind.gif", good + bytes(100), EXACT
    yield "gif-cut.gif", good[: len(good) // 2], EXACT
    # A frame that covers only a part of the image; the rest has the colour of transparent pixels. (If the frame
    # has none, Pillow fills the rest with the background colour; browsers and flipk do not.)
    clear = saved(image, "GIF", transparency=image.getpixel((0, 0)))
    large = clear[:6] + struct.pack("<HH", WIDTH + 6, HEIGHT + 4) + clear[10:]
    yield "gif-small-frame.gif", large, EXACT


def bitmap(width: int, height: int, bits: int, compression: int, pixels: bytes, extra: bytes = b"") -> bytes:
    offset = 14 + 40 + len(extra)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + info + extra + pixels


def bmps():
    image = picture()
    yield "bmp-24.bmp", saved(image, "BMP"), EXACT
    yield "bmp-32-alpha.bmp", saved(transparent(image), "BMP"), ROUNDED
    yield "bmp-grey.bmp", saved(image.convert("L"), "BMP"), EXACT
    yield "bmp-bilevel.bmp", saved(image.convert("1"), "BMP"), EXACT
    yield "bmp-palette.bmp", saved(image.quantize(64), "BMP"), EXACT
    rng = random.Random(11)
    raw = bytes(rng.getrandbits(8) for _ in range(16 * 12 * 4))
    yield "bmp-top-down.bmp", bitmap(16, -12, 24, 0, raw[: 16 * 12 * 3]), EXACT
    yield "bmp-32-unused.bmp", bitmap(16, 12, 32, 0, raw), EXACT
    yield "bmp-16-555.bmp", bitmap(16, 12, 16, 0, raw[: 16 * 12 * 2]), (4, 2)
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    yield "bmp-16-565.bmp", bitmap(16, 12, 16, 3, raw[: 16 * 12 * 2], masks), (4, 2)
    table = b"".join(raw[3 * n : 3 * n + 3] + b"\0" for n in range(16))
    four = b"BM" + struct.pack("<IHHI", 118 + 96, 0, 0, 118)
    four += struct.pack("<IiiHHIIiiII", 40, 16, 12, 1, 4, 0, 96, 2835, 2835, 16, 0) + table + raw[:96]
    yield "bmp-palette-4.bmp", four, EXACT
    table = b"".join(raw[3 * n % 700 : 3 * n % 700 + 3] + b"\0" for n in range(256))
    runs = b"".join(bytes((6, 10 * y)) + bytes((10, 10 * y + 5)) + b"\0\0" for y in range(12)) + b"\0\1"
    yield "bmp-run-lengths.bmp", bitmap(16, 12, 8, 1, runs, table), EXACT
    good = saved(image, "BMP")
    yield "bmp-cut.bmp", good[: len(good) // 2], EXACT


def tiffs():
    image = picture()
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        name = compression.removeprefix("tiff_").replace("_", "-")
        yield f"tiff-{name}.tif", saved(image, "TIFF", compression=compression), EXACT
    yield "tiff-jpeg.tif", saved(image, "TIFF", compression="jpeg"), SUBSAMPLED
    yield "tiff-grey.tif", saved(image.convert("L"), "TIFF"), EXACT
    yield "tiff-bilevel.tif", saved(image.convert("1"), "TIFF"), EXACT
    yield "tiff-fax.tif", saved(image.convert("1"), "TIFF", compression="group4"), EXACT
    yield "tiff-rgba.tif", saved(transparent(image), "TIFF"), ROUNDED
    yield "tiff-cmyk.tif", saved(image.convert("CMYK"), "TIFF"), ROUNDED
    yield "tiff-palette.tif", saved(image.quantize(64), "TIFF"), EXACT
    yield "tiff-big.tif", saved(image, "TIFF", big_tiff=True), EXACT
    yield "tiff-pages.tif", saved(image, "TIFF", save_all=True, append_images=[picture(seed=3)]), EXACT
    yield "tiff-named.jpg", saved(image, "TIFF"), EXACT
    for value in (3, 6):
        yield f"tiff-turned-{value}.tif", saved(image, "TIFF", tiffinfo={274: value}), EXACT
    good = saved(image, "TIFF")
    yield "tiff-cut.tif", good[: len(good) // 2], EXACT


def others():
    """Files that flipk rejects, and what its message calls them; Pillow reads some of them."""
    image = picture()
    if features.check("avif"):
        yield "avif.jpg", saved(image, "AVIF"), "AVIF"
    yield "heic.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC"
    yield "jpeg-xl.jpg", b"\xff\x0a\xf8\x4f" + bytes(64), "JPEG XL"
    yield "jpeg-2000.jpg", saved(image, "JPEG2000"), "JPEG 2000"
    yield "icon.png", saved(image, "ICO", sizes=[(16, 16)]), "an ICO icon"
    yield "ppm.png", saved(image, "PPM"), "PBM, PGM or PPM"
    yield "pdf.jpg", b"%PDF-1.7\n1 0 obj\n", "PDF"
    yield "svg.png", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "SVG"
    yield "page.jpg", b"<!DOCTYPE html>\n<html><title>404 Not Found</title></html>", "an HTML page"
    yield "answer.jpg", b'{"error": "not found"}\n', "a text file"
    yield "film.jpg", b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + bytes(64), "an MP4 video"
    yield "zeros.jpg", bytes(512), "zero bytes only"
    yield "empty.jpg", b"", "it is empty"


def pixels(data: bytes, upright: bool) -> Image.Image | None:
    """What Pillow reads, without alpha, or None if it fails."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        if upright:
            image = ImageOps.exif_transpose(image)
        # Pillow clips 16 bits of grey to 8 where it should scale them.
        if image.mode.startswith("I"):
            image = image.point(lambda value: value / 257).convert("L")
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return None


def middle(image: Image.Image, side: int) -> bytes:
    """The short side resized to `side`, then the middle square, in one call. Contrast is taken off before, since Pillow
    clamps between its two passes, and flipk does not."""
    image = image.point(lambda value: 32 + value * 3 // 4)
    spans = []
    for length in image.size:
        resized = side * length // min(image.size)
        first = round((resized - side) / 2) * (length / resized)
        spans.append((first, min(first + side * (length / resized), length)))
    (left, right), (top, bottom) = spans
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, right, bottom)).tobytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    entries, rgb, squares = [], b"", b""

    def expect(file: str, data: bytes, tolerance: tuple, upright: bool = False) -> None:
        nonlocal rgb, squares
        image = pixels(data, upright)
        entry = {"file": file, "upright": upright, "pillow_reads": image is not None}
        if image is not None:
            entry |= {"width": image.width, "height": image.height, "max": tolerance[0], "mean": tolerance[1]}
            rgb += image.tobytes()
            squares += middle(image, 8) + middle(image, 20)
        if file in OTHERWISE:
            entry["otherwise"] = OTHERWISE[file]
        entries.append(entry)

    for make in (jpegs, pngs, webps, gifs, bmps, tiffs):
        for file, data, tolerance in make():
            (out / file).write_bytes(data)
            expect(file, data, tolerance)
            if "turned" in file:
                expect(file, data, tolerance, upright=True)
    for file, data, said in others():
        (out / file).write_bytes(data)
        entries.append({"file": file, "upright": False, "pillow_reads": pixels(data, False) is not None, "said": said})
    made_with = f"Pillow {PIL.__version__}, libjpeg-turbo {features.version('libjpeg_turbo')}"
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    (out / "expected.json").write_text(f"{{\"made_with\": {json.dumps(made_with)}, \"images\": [\n{lines}\n]}}\n")
    (out / "expected.rgb.gz").write_bytes(gzip.compress(rgb, 9, mtime=0))
    (out / "squares.rgb.gz").write_bytes(gzip.compress(squares, 9, mtime=0))
    print(f"{len(entries)} expectations, {sum(path.stat().st_size for path in out.iterdir())} bytes in {out}")


main()
