"""A REST server around a detector: post an image, get its boxes as JSON.

    pip install fastapi uvicorn
    python examples/rest_server.py best.pt
    curl --data-binary @photo.jpg "http://127.0.0.1:8000/detect?conf=0.4"

An upload has a limit of bytes, checked while it arrives, a limit of seconds, and Boxwright's own limit of pixels
(docs/limits.md). It is for a network that you trust: before anything else comes a proxy with TLS and a login.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

import boxwright as bw
from boxwright.errors import UserError


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """Read what was sent; stop as soon as it is too large or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise HTTPException(413, f"the upload has more than {max_bytes} bytes")
    except TimeoutError:
        raise HTTPException(408, f"the upload took more than {seconds:g} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "the upload was broken off") from None
    return bytes(body)


def create_app(weights: str | Path, *, max_bytes: int = 20_000_000, seconds: float = 30, at_once: int = 32) -> FastAPI:
    """Load the weights and return the application, for uvicorn or another server."""
    detector = bw.load(weights)
    lock = threading.Lock()  # one image at a time: each uses all cores
    places = asyncio.Semaphore(at_once)  # for uploads that arrive or wait, so that they fill no memory
    app = FastAPI(title="Boxwright", docs_url=None, redoc_url=None)  # these pages would load scripts from elsewhere

    def find(body: bytes, conf: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder, lock:
            path = Path(folder, "upload.jpg")  # files are checked before they are decoded, whatever format they have
            path.write_bytes(body)
            try:
                result = detector(path, conf_thres=conf)
            except UserError as error:
                said = str(error).replace(str(path), "the upload").partition("; ")[0]
                raise HTTPException(400, said) from error
        height, width = result.image_size
        boxes = [{"name": b.name, "score": b.score, "box": b.box.tolist()} for b in result]  # x1 y1 x2 y2 in pixels
        return {"width": width, "height": height, "boxes": boxes}

    @app.post("/detect")
    async def detect(request: Request, conf: Annotated[float, Query(ge=0, le=1)] = 0.25) -> dict[str, Any]:
        if places.locked():
            raise HTTPException(503, f"{at_once} images are waiting; try again later")
        async with places:
            body = await read_body(request, max_bytes, seconds)
            return await run_in_threadpool(find, body, conf)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    try:
        app = create_app(options.weights)
    except UserError as error:
        parser.exit(2, f"{error}\n")
    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
