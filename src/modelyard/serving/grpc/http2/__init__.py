"""gRPC on our own HTTP/2 (RFC 9113): asyncio's Protocol, server side, no task or timer per inference."""
