"""The gRPC status is found in every legal form of a header block, and broken ones are not taken for success."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.profile.client.grpc import frame, grpc_status, huffman_digits, request_headers

NAME = b"\x0bgrpc-status"
HUFFMAN_NAME = b"\x88" + bytes.fromhex("9acac8b21234da8f")
OTHER = b"\x40\x0cgrpc-message\x02ok"


def test_digits_in_the_huffman_code_of_rfc_7541():
    assert huffman_digits(0) == b"\x07"  # 00000 111
    assert huffman_digits(8) == bytes([0b01111011])  # 011110 11
    assert huffman_digits(302) == bytes.fromhex("6402")  # RFC 7541, C.6.1


@given(
    st.integers(0, 16),
    st.sampled_from([0x00, 0x10, 0x40]),
    st.booleans(),
    st.booleans(),
    st.lists(st.sampled_from([b"\x88", b"\x20", b"\x3f\xe1\x1f", OTHER]), max_size=3),
)
def test_the_status_is_found_in_every_representation(code, kind, huffman_name, huffman_value, before):
    value = huffman_digits(code) if huffman_value else str(code).encode()
    text = bytes([len(value) | (0x80 if huffman_value else 0)]) + value
    block = b"".join(before) + bytes([kind]) + (HUFFMAN_NAME if huffman_name else NAME) + text
    assert grpc_status(block) == code
    assert grpc_status(block + OTHER) == code


@pytest.mark.parametrize(("block", "expected"), [(b"", None), (OTHER, None), (b"\x00" + NAME + b"\x01x", 2)])
def test_no_status_and_nonsense(block, expected):
    assert grpc_status(block) == expected


def test_frames_and_request_headers_are_as_the_rfc_has_them():
    assert frame(1, 4, 7, b"abc") == b"\x00\x00\x03\x01\x04\x00\x00\x00\x07abc"
    assert frame(0, 0, 1, bytes(70_000))[:3] == (70_000).to_bytes(3, "big")
    block = request_headers("h:1", "/s/M")
    assert block.startswith(b"\x83\x86\x04\x04/s/M\x01\x03h:1")
    assert grpc_status(block) is None
