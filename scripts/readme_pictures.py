"""Makes the README's pictures with a running service: a cut-out, an extracted object, and a photo without it.

.venv/bin/python scripts/readme_pictures.py [--url http://127.0.0.1:8000]
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path

import httpx
from PIL import Image, ImageDraw

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
RESULTS = DATA / "results"
HEIGHT_PX = 180
SQUARE_PX = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--photo", default="lemur.jpg", help="in tests/data: the photo to cut out")
    parser.add_argument("--tapped", default="astronaut.jpg", help="in tests/data: the photo to tap")
    parser.add_argument("--tap", default="393,427", help="x,y on it")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    with httpx.Client(base_url=arguments.url, timeout=120) as client:
        photo = DATA / arguments.photo
        answer = client.post("/api/background-removal/remove", files={"image": (photo.name, photo.read_bytes())})
        answer.raise_for_status()
        save("photo.jpg", Image.open(photo))
        save("cutout.jpg", on_squares(Image.open(io.BytesIO(answer.content))))
        tap_one_object(client, DATA / arguments.tapped, [float(number) for number in arguments.tap.split(",")])
    return 0


def tap_one_object(client: httpx.Client, photo: Path, tap: list[float]) -> None:
    """The photo with the tap on it, the object, and the photo without the object."""
    job_id = (
        client.post("/upload", files={"file": (photo.name, photo.read_bytes())}).raise_for_status().json()["job_id"]
    )
    client.post("/segment", params={"job_id": job_id}, json={"coordinates_list": [tap]}).raise_for_status()
    while (status := client.get(f"/status/{job_id}").json())["status"] == "processing":
        time.sleep(0.2)
    if status["status"] != "ready":
        raise SystemExit(f"The job failed: {status}")

    def fetch(name: str) -> Image.Image:
        return Image.open(io.BytesIO(client.get(f"/download/{job_id}/{name}").raise_for_status().content))

    tapped = Image.open(photo).convert("RGB")
    x, y = tap
    ImageDraw.Draw(tapped).ellipse((x - 9, y - 9, x + 9, y + 9), fill="white", outline="black", width=3)
    save("tapped.jpg", tapped)
    save("extracted.jpg", on_squares(fetch("cropped_0.png")))
    save("removed.jpg", fetch("full_inpainted.png"))
    client.delete(f"/cleanup/{job_id}")


def on_squares(cutout: Image.Image) -> Image.Image:
    """A transparent picture on grey and white squares, so that its edges show."""
    squares = Image.new("RGB", cutout.size, "white")
    draw = ImageDraw.Draw(squares)
    for y in range(0, cutout.height, SQUARE_PX):
        for x in range(y // SQUARE_PX % 2 * SQUARE_PX, cutout.width, 2 * SQUARE_PX):
            draw.rectangle((x, y, x + SQUARE_PX - 1, y + SQUARE_PX - 1), fill=(208, 208, 208))
    squares.paste(cutout, mask=cutout.getchannel("A"))
    return squares


def save(name: str, picture: Image.Image) -> None:
    small = picture.convert("RGB").resize((round(picture.width * HEIGHT_PX / picture.height), HEIGHT_PX))
    small.save(RESULTS / name, quality=88)
    print(RESULTS / name)


if __name__ == "__main__":
    sys.exit(main())
