"""What no server can be faster than: nginx and a bare uvloop + httptools protocol, both answering a constant."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.serving.systems.ports import BINARY, GRPC, JSON, PEERS, Deployment, Launch, System

_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000; client_max_body_size 64m; client_body_buffer_size 1m;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5; default_type application/json;
  server {{ listen 127.0.0.1:{http}; location / {{ return 200 '{body}'; }} }}
  server {{ listen 127.0.0.1:{grpc} http2; location / {{ return 200 '{body}'; }} }} }}
"""
_BODY = '{"model_name":"mlp","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,10],"data":[%s]}]}'


def _nginx(deployment: Deployment) -> Launch:
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(binary).exists():
        raise FileNotFoundError("nginx is not installed (Debian package nginx-light)")
    config = deployment.folder / "nginx.conf"
    body = _BODY % ",".join(["1.1234567165374756"] * 10)
    config.write_text(
        _NGINX.format(folder=deployment.folder, http=deployment.http_port, grpc=deployment.grpc_port, body=body)
    )
    return Launch([[binary, "-e", str(deployment.folder / "start.log"), "-c", str(config)]], {}, "/")


def _floor(deployment: Deployment) -> Launch:
    return Launch([[sys.executable, str(PEERS / "floor.py"), str(deployment.http_port)]], {}, "/")


_SMALL = frozenset({"mlp"})
SYSTEMS = (
    System(
        "nginx", "nginx, constant", _nginx, protocols=(JSON, BINARY, GRPC), batches=False, limit=True, models=_SMALL
    ),
    System(
        "floor",
        "uvloop + httptools, constant",
        _floor,
        packages=("uvloop", "httptools"),
        protocols=(JSON, BINARY),
        batches=False,
        limit=True,
        models=_SMALL,
    ),
)
