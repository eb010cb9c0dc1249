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
        handler = type("Handler", (BaseHTTPRequestHandler,), {
            "protocol_version": "HTTP/1.1", "do_GET": lambda request: self.answer(request),
            "log_message": lambda *args: None})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
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
            self.head(request, status, 0, **self.headers)
        elif "/tree/" in path:
            folder = path.split("/tree/")[1].partition("/")[2]
            self.json(request, [self.entry(p) for p in sorted(self.files) if p.startswith(folder)])
        elif path.startswith("/api/datasets/"):
            name = path.removeprefix("/api/datasets/")
            self.json(request, {"id": name, "sha": self.commit, "cardData": self.card})
        elif "/resolve/" in path:  # large files live elsewhere
            self.head(request, 302, 0, Location="/blobs/" + path.split("/resolve/")[1].partition("/")[2])
        elif path.removeprefix("/blobs/") in self.files:
            self.blob(request, path.removeprefix("/blobs/"))
        else:
            self.head(request, 404, 0)

    def entry(self, path):
        sha256 = self.reported.get(path) or hashlib.sha256(self.files[path]).hexdigest()
        size = self.size or len(self.files[path])
        return {"type": "file", "path": path, "size": size, "oid": "b" * 40,
                "lfs": {"oid": sha256, "size": size, "pointerSize": 134}}

    def head(self, request, status, length, **headers):
        request.send_response(status)
        for name, value in {"Content-Length": length, **headers}.items():
            request.send_header(name.replace("_", "-"), str(value))
        request.end_headers()

    def json(self, request, value):
        body = self.page or json.dumps(value).encode()
        self.head(request, 200, len(body), Content_Type="application/json")
        request.wfile.write(body)

    def blob(self, request, path):
        span, body = request.headers.get("Range"), self.served.get(path, self.files[path])
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        rest = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if span else {}
        self.head(request, 206 if span else 200, len(body) - start, **rest)
        end = self.cut.pop(path, len(body))
        middle = end if self.hold is None else min(start + self.hold, end)
        request.wfile.write(body[start:middle])
        while middle < end and not self.going_on.wait(0.05):
            request.wfile.write(body[middle:middle + 1])
            middle += 1
        request.wfile.write(body[middle:end])
        request.close_connection |= end < len(body)


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
