"""Content-addressed blob stores: a local directory, or any fsspec URL."""

from modelyard.hub.blobs.ports import Blob, BlobStore, hash_file, open_store

__all__ = ["Blob", "BlobStore", "hash_file", "open_store"]
