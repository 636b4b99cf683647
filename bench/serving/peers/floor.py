"""The floor of any server of this kind: uvloop and httptools, a request parsed, a constant answered, nothing else."""

import asyncio
import sys

import httptools
import uvloop

BODY = b'{"model_name":"mlp","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,10],"data":[%s]}]}'
CONTENT = BODY % b",".join([b"1.1234567165374756"] * 10)
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(CONTENT),
    CONTENT,
)


class Floor(asyncio.Protocol):
    """Answers each complete request with the constant."""

    def connection_made(self, transport):
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_message_complete(self):
        self.transport.write(RESPONSE)


async def main(port):
    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
