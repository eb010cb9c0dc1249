"""A hub on this machine: enough of the hub's HTTP for huggingface_hub, with faults on request."""
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from tiny import ROOT


class FakeHub:
    """Serves `files` (path to bytes) as every data set; `card` is the data set's metadata."""

    def __init__(self):
        self.files, self.card, self.commit = {}, {}, "a" * 40
        self.reported = {}  # path: a sha256 to report instead of the true one
        self.served = {}  # path: bytes to serve instead of the file's
        self.cut = {}  # path: bytes after which the connection is dropped, once
        self.refuse = {}  # start of a path: status to answer with ...
        self.headers = {}  # ... and headers that go with it
        self.size = self.page = None  # to report of every file; to answer with; instead of the true ones
        self.hold = None  # bytes after which a transfer all but stops ...
        self.going_on = threading.Event()  # ... until this
        self.requests = []  # (path, Range header)
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def downloads(self):
        return [(path.split("/")[-1], span) for path, span in self.requests if path.startswith("/blobs/")]

    def answer(self, request):
        path = unquote(urlsplit(request.path).path)
        self.requests.append((path, request.headers.get("Range")))
        status = next((status for start, status in self.refuse.items() if path.startswith(start)), None)
        if status:
            request.send_response(status)
            for header in [*self.headers.items(), ("Content-Length", "0")]:
                request.send_header(*header)
            request.end_headers()
        elif "/tree/" in path:
            folder = path.split("/tree/")[1].partition("/")[2]
            self.json(request, [self.entry(p) for p in sorted(self.files) if p.startswith(folder)])
        elif path.startswith("/api/datasets/"):
            name = path.removeprefix("/api/datasets/")
            self.json(request, {"id": name, "sha": self.commit, "cardData": self.card})
        elif "/resolve/" in path:  # large files live elsewhere
            request.send_response(302)
            request.send_header("Location", "/blobs/" + path.split("/resolve/")[1].partition("/")[2])
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif path.removeprefix("/blobs/") in self.files:
            self.blob(request, path.removeprefix("/blobs/"))
        else:
            request.send_error(404)

    def entry(self, path):
        sha256 = self.reported.get(path) or hashlib.sha256(self.files[path]).hexdigest()
        size = self.size or len(self.files[path])
        return {"type": "file", "path": path, "size": size, "oid": "b" * 40,
                "lfs": {"oid": sha256, "size": size, "pointerSize": 134}}

    def json(self, request, value):
        self.send(request, self.page or json.dumps(value).encode())

    def send(self, request, body):
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def blob(self, request, path):
        span, body = request.headers.get("Range"), self.served.get(path, self.files[path])
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        request.send_response(206 if span else 200)
        request.send_header("Content-Length", str(len(body) - start))
        if span:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.end_headers()
        end = self.cut.pop(path, len(body))
        middle = end if self.hold is None else min(start + self.hold, end)
        request.wfile.write(body[start:middle])
        while middle < end and not self.going_on.wait(0.05):
            request.wfile.write(body[middle:middle + 1])
            middle += 1
        request.wfile.write(body[middle:end])
        if end < len(body):
            request.close_connection = True


@pytest.fixture
def fake_hub():
    hub = FakeHub()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture
def start(tmp_path):
    """Start data/SCRIPT as a user does, from another directory, with a given hub."""
    def start(script, *args, endpoint="http://127.0.0.1:9"):
        env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*", "no_proxy": "*"}
        return subprocess.Popen([sys.executable, str(ROOT / "data" / script), *map(str, args)], text=True,
                                cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return start


@pytest.fixture
def run(start):
    """Run data/SCRIPT to its end; return exit code, stdout and stderr."""
    def run(script, *args, timeout=120, **options):
        process = start(script, *args, **options)
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err
    return run
