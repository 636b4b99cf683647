"""MLServer: a custom runtime, as its documentation writes one."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from ort_model import OrtModel


class Bench(MLModel):
    async def load(self) -> bool:
        self.model = OrtModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feed = {
            tensor.name: NumpyCodec.decode_input(tensor).astype(self.model.inputs[tensor.name][1], copy=False)
            for tensor in payload.inputs
        }
        y = self.model(feed)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("y", y)])
