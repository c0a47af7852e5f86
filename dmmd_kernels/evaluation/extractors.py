"""Feature extractors: the network whose features a score compares, chosen by name.

    pixels       the samples themselves
    classifier   a small network fitted to the training digits here, in seconds
    random       colours and textures: channel means of a fixed random network, 39 numbers
    inception    InceptionV3 of torch-fidelity from a .safetensors file: 2048 features, class logits
    clip         a CLIP image encoder of transformers, from a folder

Nothing is downloaded. A library or file that is missing is an ExtractorError of one sentence.
"""

from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from dmmd_kernels import data, metrics
from dmmd_kernels.runs.run import Run

BATCH = 64


class ExtractorError(RuntimeError):
    """The extractor can't be had here; the message says what is missing and how to get it."""


class Extractor(NamedTuple):
    """Samples (N, *shape), images in [-1, 1], → features (N, D); logits (N, C) or None."""

    name: str
    features: Callable[[Tensor], Tensor]
    logits: Callable[[Tensor], Tensor] | None = None


def usual(run: Run) -> str:
    """The features a run is judged in unless told otherwise: none of them needs a file."""
    return {"digits": "classifier", "patches": "random"}.get(run.settings.data, "pixels")


def make(name: str, run: Run, weights: Path | None = None) -> Extractor:
    """The extractor called `name`, for the samples of the run.

    Raises:
        ExtractorError: it needs a library, a file, or other samples.
    """
    if name not in EXTRACTORS:
        raise ExtractorError(f"features must be one of {', '.join(EXTRACTORS)}, got {name!r}")
    return EXTRACTORS[name](run, weights)


def _pixels(run: Run, weights: Path | None) -> Extractor:
    return Extractor("pixels", lambda x: x.flatten(1))


def _classifier(run: Run, weights: Path | None) -> Extractor:
    if run.settings.data != "digits":
        raise ExtractorError(
            f"features=classifier is for digits, got data={run.settings.data}; "
            "give --features pixels, inception or clip"
        )
    net = metrics.train_digit_classifier(data.digits())
    return Extractor("classifier", _in_batches(net.features), _in_batches(net))


def _random(run: Run, weights: Path | None) -> Extractor:
    """Untrained features, for images that are like no network's training set.

    Naeem et al. (ICML 2020) judge by such ones. Here: the mean colour, and of three convolutions
    the mean over places of each channel after ReLU. Weights are N(0, 2 / fan-in) of one seed; the
    first filters have mean zero, or else brightness would outweigh texture. They tell which colours
    and textures there are, not where: patches have no place.
    """
    _need_images(run, "random")
    widths = (run.dataset.train.shape[1], 12, 12, 12)
    generator = data.generator_of(0)
    filters = [
        torch.randn(out, into, 3, 3, generator=generator) * (2 / (9 * into)) ** 0.5
        for into, out in pairwise(widths)
    ]
    filters[0] -= filters[0].mean((2, 3), keepdim=True)

    def means(x: Tensor) -> Tensor:
        found = [x.mean((2, 3))]
        for weight in filters:
            x = torch.nn.functional.conv2d(x, weight, padding=1).relu()
            found.append(x.mean((2, 3)))
        return torch.cat(found, 1)

    return Extractor("random", _in_batches(means))


def _inception(run: Run, weights: Path | None) -> Extractor:
    what = "InceptionV3's weights for FID as a .safetensors file"
    path = _need(run, weights, "inception", what)
    try:
        tensors = load_file(path)
    except Exception as error:  # of many kinds
        raise ExtractorError(
            f"features=inception: {path} can't be read as safetensors: {error}; "
            "save the tensors of a file you trust with safetensors.torch.save_file"
        ) from error
    module = _library("torch_fidelity.feature_extractor_inceptionv3", "torch-fidelity")
    names = ["2048", "logits_unbiased"]
    try:
        # Given a path torch-fidelity would unpickle it; given none it asks this function.
        with patch.object(module, "load_state_dict_from_url", lambda *_, **__: tensors):
            net = module.FeatureExtractorInceptionV3("inception-v3-compat", names)
    except Exception as error:  # weights of another network
        raise ExtractorError(f"features=inception: {path} can't be read: {error}") from error
    return Extractor(
        "inception",
        _in_batches(lambda x: net(_bytes(x))[0]),
        _in_batches(lambda x: net(_bytes(x))[1]),
    )


def _clip(run: Run, weights: Path | None) -> Extractor:
    path = _need(run, weights, "clip", "the folder of a CLIP model as transformers saves it")
    library = _library("transformers", "transformers")
    try:
        net = library.CLIPVisionModelWithProjection.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        )
        size = net.config.image_size
    except (OSError, ValueError) as error:
        raise ExtractorError(f"features=clip: {path} can't be read: {error}") from error
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]

    def embed(x: Tensor) -> Tensor:
        pixels = torch.nn.functional.interpolate(
            _bytes(x).float() / 255, (size, size), mode="bicubic", antialias=True
        ).clamp(0, 1)
        return net(pixel_values=(pixels - mean) / deviation).image_embeds

    return Extractor("clip", _in_batches(embed))


EXTRACTORS: dict[str, Callable[[Run, Path | None], Extractor]] = {
    "pixels": _pixels,
    "classifier": _classifier,
    "random": _random,
    "inception": _inception,
    "clip": _clip,
}


def _need_images(run: Run, name: str) -> None:
    if run.dataset.train.ndim != 4:
        raise ExtractorError(f"features={name} needs images, got {run.settings.data}")


def _need(run: Run, weights: Path | None, name: str, what: str) -> Path:
    """
    Raises:
        ExtractorError: the samples are no images, or there is nothing at the path.
    """
    _need_images(run, name)
    if weights is None or not weights.exists():
        raise ExtractorError(
            f"features={name} needs --weights PATH, {what}, got {weights}; nothing is downloaded"
        )
    return weights


def _library(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ExtractorError(f"{package} can't be imported; run `pip install {package}`") from error


def _bytes(x: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] → (N, 3, H, W) of 0..255; grey three times."""
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.expand(-1, 3, -1, -1) if x.shape[1] == 1 else pixels


def _in_batches(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def of_all(x: Tensor) -> Tensor:
        return torch.cat([function(part) for part in x.cpu().float().split(BATCH)])

    return of_all
