"""KServe's model server: one process, a custom model."""

import kserve
from kserve import InferOutput, InferRequest, InferResponse, ModelServer
from kserve.utils.utils import generate_uuid
from ort_model import GRPC_PORT, NAME, PORT, OrtModel


class Bench(kserve.Model):
    def __init__(self) -> None:
        super().__init__(NAME)
        self.load()

    def load(self) -> bool:
        self.model = OrtModel()
        self.ready = True
        return True

    async def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        feed = {i.name: i.as_numpy().astype(self.model.inputs[i.name][1], copy=False) for i in payload.inputs}
        y = self.model(feed)
        output = InferOutput("y", list(y.shape), "FP32")
        output.set_data_from_numpy(y, binary_data=bool(payload.use_binary_outputs))
        return InferResponse(payload.id or generate_uuid(), NAME, [output])


if __name__ == "__main__":
    server = ModelServer(http_port=PORT, grpc_port=GRPC_PORT, workers=1, access_log_format=None)
    server.start([Bench()])
