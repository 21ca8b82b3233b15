"""Builds atlas.npz, the 206 pictograms in two styles, from Noto Emoji and Twemoji pictures."""
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from classes import PICTOGRAMS

SIDE = 96


def noto_files(root: Path, code: str) -> list[Path]:
    return [root / f"emoji_u{code}.png", root / f"emoji_u{code}_fe0f.png"]


def twemoji_files(root: Path, code: str) -> list[Path]:
    return [root / f"{name}.png" for base in (code, code.zfill(4))
            for name in (base, base + "-fe0f")]


def load(files: list[Path]) -> Image.Image | None:
    for file in files:
        if file.exists():
            with Image.open(file) as image:
                return image.convert("RGBA")
    return None


def fit(image: Image.Image) -> np.ndarray:
    """[96,96,4]: the opaque part, as large as fits, centred."""
    image = image.crop(image.getchannel("A").getbbox())
    w, h = image.size
    k = SIDE / max(w, h)
    image = image.resize((max(1, round(w * k)), max(1, round(h * k))), Image.BICUBIC)
    tile = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    tile.paste(image, ((SIDE - image.size[0]) // 2, (SIDE - image.size[1]) // 2))
    return np.array(tile)


def build(noto: Path, twemoji: Path) -> np.ndarray:
    """[206,2,96,96,4]; a pictogram that one set lacks is taken from the other."""
    sprites = np.zeros((len(PICTOGRAMS), 2, SIDE, SIDE, 4), np.uint8)
    for i, (name, code) in enumerate(PICTOGRAMS):
        styles = [load(noto_files(noto, code)), load(twemoji_files(twemoji, code))]
        for j, image in enumerate(styles):
            if image is None:
                print(f"{name} ({code}): not in {(noto, twemoji)[j]}")
                image = styles[1 - j]
            if image is None:
                raise SystemExit(f"{name} ({code}): in neither folder")
            sprites[i, j] = fit(image)
    return sprites


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noto", type=Path, required=True,
                        help="png/128 of a checkout of googlefonts/noto-emoji")
    parser.add_argument("--twemoji", type=Path, required=True,
                        help="img/twitter/64 of the package emoji-datasource-twitter")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("atlas.npz"))
    args = parser.parse_args()
    np.savez_compressed(args.out, sprites=build(args.noto, args.twemoji))


if __name__ == "__main__":
    main()
