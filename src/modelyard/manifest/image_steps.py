"""Steps on images: decode, resize, normalize. Pillow is imported when the first image is worked on.

Images are UINT8 [batch, height, width, channels] between these steps.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.domain.tensors import Datatype, TensorSpec
from modelyard.manifest.step import OneTensor, clipped, contiguous
from modelyard.manifest.step_options import DecodeImage, Normalize, Resize

if TYPE_CHECKING:
    from PIL.Image import Image

# Plain raster decoders only: Pillow's others start programs (EPS) or are rarely fuzzed.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_CHANNELS = {"RGB": 3, "L": 1}


class DecodeImageStep(OneTensor):
    """Encoded images BYTES[batch] to UINT8 [batch, height, width, channels]."""

    def __init__(self, options: DecodeImage) -> None:
        super().__init__(options.kind, options.tensor)
        self._options = options

    def before(self, spec: TensorSpec) -> TensorSpec:
        options = self._options
        channels = _CHANNELS[options.mode]
        _images(spec, (Datatype.UINT8,))
        if spec.shape[3] != channels:
            raise InvalidInput(f"mode {options.mode} has {channels} channels, but {spec} follows")
        for want, got in zip(options.size or (None, None), spec.shape[1:3], strict=True):
            if isinstance(got, int) and got != want:
                raise InvalidInput(f"{spec} follows", hint=f"add size: [{spec.shape[1]}, {spec.shape[2]}]")
        return TensorSpec(spec.name, Datatype.BYTES, spec.shape[:1])

    def change(self, array: NDArray[Any]) -> NDArray[Any]:
        images = [self._decode(i, data) for i, data in enumerate(array.reshape(-1))]
        if len({image.shape for image in images}) > 1:
            raise InvalidInput(
                "the images of one request differ in size", hint="send images of one size, or one by one"
            )
        if not images:
            raise InvalidInput("there is no image in the request", hint="send at least one")
        return np.stack(images)

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        pillow = _pillow()
        result = np.empty(len(array), dtype=object)
        for i, image in enumerate(array):
            buffer = io.BytesIO()
            # JPEG, as most clients send: what decoding costs is part of what a load measures.
            pillow.fromarray(image[:, :, 0] if self._options.mode == "L" else image).save(buffer, "JPEG", quality=95)
            result[i] = buffer.getvalue()
        return result

    def _decode(self, index: int, data: object) -> NDArray[np.uint8]:
        pillow = _pillow()
        if not isinstance(data, bytes):
            raise InvalidInput(f"image {index} is not bytes", hint="send encoded images as BYTES")
        try:
            with pillow.open(io.BytesIO(data), formats=_FORMATS) as image:
                width, height = image.size
                if width * height > self._options.max_pixels:  # told by the header, before anything is decoded
                    raise self._too_large(index, f"{width} x {height}")
                return np.asarray(self._fit(image.convert(self._options.mode)), dtype=np.uint8).reshape(
                    *(self._options.size or (height, width)), _CHANNELS[self._options.mode]
                )
        except InvalidInput:
            raise
        except pillow.DecompressionBombError as error:  # Pillow's own bound, about 179 million pixels
            raise self._too_large(index, "far too many") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise InvalidInput(
                f"image {index} cannot be decoded",
                why=str(error).replace(f"{io.BytesIO.__name__}", "data").split(" <")[0],
                hint=f"send one of {', '.join(_FORMATS)}",
            ) from error

    def _too_large(self, index: int, pixels: str) -> InvalidInput:
        return InvalidInput(
            f"image {index} has {pixels} pixels",
            hint=f"send at most {self._options.max_pixels} pixels, or raise max_pixels in the manifest",
        )

    def _fit(self, image: Image) -> Image:
        options = self._options
        if options.size is None:
            return image
        height, width = options.size
        resample = _resample(options.resample)
        if options.fit == "stretch":
            return image.resize((width, height), resample)
        # The largest centred part of the wanted aspect ratio, scaled in one pass.
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
        return image.resize((width, height), resample, box=box)


class ResizeStep(OneTensor):
    """Scale images of UINT8 or FP32; Pillow's filters, which average when they shrink."""

    def __init__(self, options: Resize) -> None:
        super().__init__(options.kind, options.tensor)
        self._options = options

    def before(self, spec: TensorSpec) -> TensorSpec:
        _images(spec, (Datatype.UINT8, Datatype.FP32))
        for want, got in zip(self._options.size, spec.shape[1:3], strict=True):
            if isinstance(got, int) and got != want:
                raise InvalidInput(f"it makes {self._options.size}, but {spec} follows", hint="correct 'size'")
        return replace(spec, shape=(spec.shape[0], "height", "width", spec.shape[3]))

    def change(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim != 4 or array.dtype not in (np.uint8, np.float32) or 0 in array.shape:
            raise InvalidInput(
                f"images have shape {list(array.shape)} of {array.dtype}",
                hint="send UINT8 or FP32 [batch, height, width, channels]",
            )
        pillow, resample = _pillow(), _resample(self._options.resample)
        height, width = self._options.size
        result = np.empty((array.shape[0], height, width, array.shape[3]), dtype=array.dtype)
        for i, image in enumerate(array):
            for channel in range(array.shape[3]):
                plane = pillow.fromarray(contiguous(image[:, :, channel]))
                result[i, :, :, channel] = np.asarray(plane.resize((width, height), resample))
        return result

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        return array


class NormalizeStep(OneTensor):
    """(x * scale - mean) / std per channel, in FP32, laid out as the model wants it."""

    def __init__(self, options: Normalize) -> None:
        super().__init__(options.kind, options.tensor)
        self._from = Datatype(options.from_)
        if self._from is Datatype.BYTES:
            raise InvalidInput("BYTES cannot be normalized", hint="put a decode_image step before it")
        self._chw = options.layout == "chw"
        mean, std = np.asarray(options.mean, np.float64), np.asarray(options.std, np.float64)
        if len(mean) != len(std) and 1 not in (len(mean), len(std)):
            raise InvalidInput(f"mean has {len(mean)} values and std {len(std)}", hint="give one per channel")
        self._factor = (options.scale / std).astype(np.float32)
        self._offset = (-mean / std).astype(np.float32)

    def before(self, spec: TensorSpec) -> TensorSpec:
        if spec.datatype is not Datatype.FP32 or len(spec.shape) != 4:
            raise InvalidInput(f"it makes FP32 images of 4 dimensions, but {spec} follows")
        batch, a, b, c = spec.shape
        height, width, channels = (b, c, a) if self._chw else (a, b, c)
        for values in (self._factor, self._offset):
            if isinstance(channels, int) and len(values) not in (1, channels):
                raise InvalidInput(
                    f"mean or std has {len(values)} values, but {spec} has {channels} channels",
                    hint="give one value per channel, or set layout",
                )
        return TensorSpec(spec.name, self._from, (batch, height, width, channels))

    def change(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.ndim != 4:
            raise InvalidInput(f"images have shape {list(array.shape)}", hint="send [batch, height, width, channels]")
        if self._chw:  # transposed first (a view), so that the arithmetic writes the final layout
            array = array.transpose(0, 3, 1, 2)
            factor, offset = self._factor.reshape(-1, 1, 1), self._offset.reshape(-1, 1, 1)
        else:
            factor, offset = self._factor, self._offset
        result: NDArray[Any] = np.multiply(array, factor, dtype=np.float32, order="C")
        result += offset
        return result

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        rows = array.transpose(0, 2, 3, 1) if self._chw else array
        return contiguous(clipped((rows - self._offset) / self._factor, self._from.numpy))


def _images(spec: TensorSpec, datatypes: tuple[Datatype, ...]) -> None:
    if spec.datatype not in datatypes or len(spec.shape) != 4:
        raise InvalidInput(
            f"it makes {' or '.join(datatypes)} [batch, height, width, channels], but {spec} follows",
            hint="put a normalize step after it, or correct the model's inputs",
        )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise Unsupported(
            "image steps need Pillow, which is not installed", hint="pip install 'modelyard[images]'"
        ) from error
    return Image


def _resample(name: str) -> Any:
    return getattr(_pillow().Resampling, name.upper())
