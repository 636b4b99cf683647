"""LitServe: one worker, `max_batch_size` and its default batch timeout of 0, or no batching."""

import litserve
from ort_model import MAX_BATCH, PORT, OrtModel


class Bench(litserve.LitAPI):
    def setup(self, device):
        self.model = OrtModel()

    def decode_request(self, request):
        return request

    def predict(self, request):
        if MAX_BATCH > 1:
            return list(self.model.stacked(request))
        return self.model(self.model.arrays(request))

    def unbatch(self, output):
        return output

    def batch(self, inputs):
        return inputs

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    api = Bench(max_batch_size=MAX_BATCH)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, log_level="warning", generate_client_file=False)
