"""Serve what `peft-coop export --format onnx` wrote: a picture in, labels and their probabilities out.

It needs ONNX Runtime, FastAPI, uvicorn, NumPy and Pillow; neither torch nor transformers nor peft_coop.
"""

import argparse
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from batching import Batcher, BusyError
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pictures import KINDS, Preparation, RefusedError, read_picture


@dataclass(frozen=True)
class Limits:
    """What a request may cost.

    Attributes:
        most_bytes: of an upload.
        most_pixels: of a picture.
        upload_seconds: in which an upload must be there.
        answer_seconds: in which it must be answered then.
        decoders: pictures that are decoded at once, three bytes a pixel each.
    """

    most_bytes: int = 10_000_000
    most_pixels: int = 25_000_000
    upload_seconds: float = 10.0
    answer_seconds: float = 10.0
    decoders: int = 2


class Classifier:
    """A folder with a graph, its labels and its image processor's settings.

    Args:
        folder: what `peft-coop export --format onnx` wrote.
        graph: the graph in it.
        threads: that it computes with; 0 for as many as there are cores.
    """

    def __init__(self, folder: Path, graph: str = "onnx/model.onnx", threads: int = 0):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
        self.min_probability = config.get("min_probability")
        self.has_other = bool(config.get("n_others"))
        self.has_several = config.get("problem_type") == "multi_label_classification"
        self.prepare = Preparation.from_file(folder / "preprocessor_config.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(folder / graph, options, providers=["CPUExecutionProvider"])

    def run(self, pixel_values: np.ndarray) -> np.ndarray:
        """Probabilities `[B, C]` of `pixel_values` `[B, 3, H, W]`."""
        [logits] = self._session.run(None, {"pixel_values": pixel_values})
        if self.has_several:
            return 1 / (1 + np.exp(-logits.clip(-80, 80)))
        powers = np.exp(logits - logits.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)

    def answer(self, probabilities: np.ndarray, top_k: int) -> list[dict]:
        """The likeliest labels first; "other" before them where no class is likely enough.

        Of images with any number of labels: those that are likely enough, by 0.5 where nothing else is said.
        """
        order = (-probabilities).argsort()[:top_k]
        found = [{"label": self.labels[index], "score": float(probabilities[index])} for index in order]
        if self.has_several:
            least = 0.5 if self.min_probability is None else self.min_probability
            return [each for each in found if each["score"] >= least]
        of_classes = probabilities[:-1] if self.has_other else probabilities
        if self.min_probability is None or of_classes.max() >= self.min_probability or found[0]["label"] == "other":
            return found
        score = float(probabilities[-1]) if self.has_other else None
        others = [each for each in found if not (self.has_other and each["label"] == "other")]
        return [{"label": "other", "score": score}, *others][:top_k]


def make_app(classifier: Classifier, limits: Limits | None = None, batcher: Batcher | None = None) -> FastAPI:
    """The application.

    Args:
        classifier: what is served.
        limits: of each request.
        batcher: of its inputs.
    """
    limits = limits or Limits()
    batcher = batcher or Batcher(classifier.run)
    decoders = ThreadPoolExecutor(limits.decoders, "decoder")

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker

    app = FastAPI(title="A prompt as a service", lifespan=lifespan)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.status)

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "1"})

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "classes": len(classifier.labels)}

    @app.post("/classify")
    async def classify(request: Request, top_k: int = Query(5, ge=1, le=1000)) -> dict:
        content = await within(limits.upload_seconds, 408, "The upload took too long.", read_body(request, limits))
        return await within(limits.answer_seconds, 504, "The answer took too long.", labels_of(content, top_k))

    def prepared(content: bytes) -> np.ndarray:
        return classifier.prepare(read_picture(content, limits.most_pixels))

    async def labels_of(content: bytes, top_k: int) -> dict:
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(decoders, prepared, content)
        return {"labels": classifier.answer(await batcher(pixels), top_k)}

    return app


async def read_body(request: Request, limits: Limits) -> bytes:
    """The upload, of which no more is kept than it may have.

    Raises:
        RefusedError: if it is of another kind, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        raise RefusedError(415, f"The content type must be one of {', '.join(KINDS)}, got {kind or 'none'!r}.")
    too_large = RefusedError(413, f"The upload has more than {limits.most_bytes:,} bytes.")
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > limits.most_bytes:
        raise too_large
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limits.most_bytes:
            raise too_large
    return bytes(content)


async def within(seconds: float, status: int, reason: str, work):
    """Await something for so long.

    Raises:
        RefusedError: if it takes longer.
    """
    try:
        return await asyncio.wait_for(work, seconds)
    except asyncio.TimeoutError:
        raise RefusedError(status, reason) from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what `peft-coop export --format onnx` wrote")
    parser.add_argument("--graph", default="onnx/model.onnx", help="such as onnx/model_quantized.onnx")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=0, help="that the model computes with (default: all cores)")
    parser.add_argument("--smoke", action="store_true", help="load the folder, classify a grey picture and end")
    options = parser.parse_args()
    classifier = Classifier(options.folder, options.graph, options.threads)
    if options.smoke:
        from PIL import Image

        pixels = classifier.prepare(Image.new("RGB", (64, 64), "grey"))
        print(json.dumps(classifier.answer(classifier.run(pixels[None])[0], 3), ensure_ascii=False))
        return
    uvicorn.run(make_app(classifier), host=options.host, port=options.port, limit_concurrency=64, timeout_keep_alive=5)


if __name__ == "__main__":
    main()
