"""Serve what `peft-coop export --format onnx` wrote: a picture in, labels and their probabilities out.

It needs ONNX Runtime, FastAPI, uvicorn, NumPy and Pillow; neither torch nor transformers nor peft_coop.
"""

import argparse
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
import uvicorn
from batching import Batcher, BusyError
from connections import of_connections
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pictures import Preparation, RefusedError, read_picture
from pydantic import BaseModel, Field
from uploads import Limits, Places, read_body, within


class Classifier:
    """A folder with a graph, its labels and its image processor's settings.

    Args:
        folder: what `peft-coop export --format onnx` wrote.
        graph: the graph in it.
        threads: that it computes with; 0 for as many as there are cores.

    Raises:
        ValueError: if a file is missing, they do not belong together, or the graph classifies something else than
            single images.
    """

    def __init__(self, folder: Path, graph: str = "onnx/model.onnx", threads: int = 0):
        missing = [name for name in ("config.json", "preprocessor_config.json", graph) if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"There is no {missing[0]} in {str(folder)!r}: it is not what `peft-coop export` wrote.")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
        self.min_probability = config.get("min_probability")
        self.has_other = bool(config.get("n_others"))
        self.has_several = config.get("problem_type") == "multi_label_classification"
        self.prepare = Preparation.from_file(folder / "preprocessor_config.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(folder / graph, options, providers=["CPUExecutionProvider"])
        self._check(graph)

    def _check(self, graph: str) -> None:
        [given], [result] = self._session.get_inputs(), self._session.get_outputs()
        if (len(given.shape), len(result.shape)) != (4, 2):
            raise ValueError(
                f"{graph} makes {result.name} {result.shape} of {given.name} {given.shape}, and what is "
                "served gives single images, (batch, 3, height, width), one label each, (batch, classes)."
            )
        for what, of_graph, own in (
            ("images of this size", given.shape[2:], list(self.prepare.size[::-1])),
            ("so many classes", result.shape[1:], [len(self.labels)]),
        ):
            if of_graph != own:
                raise ValueError(f"{graph} is for {what}: {of_graph}, and the files beside it for {own}.")

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


class Parameters(BaseModel):
    """What an address may have behind its question mark; anything else is refused."""

    model_config = {"extra": "forbid"}
    top_k: int = Field(5, ge=1, le=1000)


def make_app(classifier: Classifier, limits: Limits | None = None, batcher: Batcher | None = None) -> FastAPI:
    """The application.

    Args:
        classifier: what is served.
        limits: of each request.
        batcher: of its inputs.
    """
    limits = limits or Limits()
    batcher = batcher or Batcher(classifier.run)
    decoders, places = ThreadPoolExecutor(limits.decoders, "decoder"), Places(limits.most_requests)

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
    async def classify(request: Request, parameters: Annotated[Parameters, Query()]) -> dict:
        with places.one():
            content = await within(limits.upload_seconds, 408, "The upload took too long.", read_body(request, limits))
            answer = labels_of(content, parameters.top_k)
            return await within(limits.answer_seconds, 504, "The answer took too long.", answer)

    def prepared(content: bytes) -> np.ndarray:
        return classifier.prepare(read_picture(content, limits.most_pixels))

    async def labels_of(content: bytes, top_k: int) -> dict:
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(decoders, prepared, content)
        return {"labels": classifier.answer(await batcher(pixels), top_k)}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what `peft-coop export --format onnx` wrote")
    parser.add_argument("--graph", default="onnx/model.onnx", help="such as onnx/model_quantized.onnx")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=0, help="that the model computes with (default: all cores)")
    parser.add_argument("--smoke", action="store_true", help="load the folder, classify a grey picture and end")
    options = parser.parse_args()
    try:
        classifier = Classifier(options.folder, options.graph, options.threads)
    except ValueError as error:
        parser.error(str(error))
    if options.smoke:
        from PIL import Image

        pixels = classifier.prepare(Image.new("RGB", (64, 64), "grey"))
        print(json.dumps(classifier.answer(classifier.run(pixels[None])[0], 3), ensure_ascii=False))
        return
    limits = Limits()
    app = make_app(classifier, limits)
    uvicorn.run(app, host=options.host, port=options.port, **of_connections(limits.head_seconds))


if __name__ == "__main__":
    main()
