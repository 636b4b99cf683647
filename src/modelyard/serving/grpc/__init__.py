"""gRPC fronts: they carry messages; what a message means is in `oip` and `tfs`."""
