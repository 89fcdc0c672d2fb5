"""A local server that imitates the Hub's resolve and API addresses, and can misbehave on request."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves {repository: {file: bytes}}. `requests` lists (method, file, range). faults: {file: list of faults}, one
    used up by each GET: "cut" (break off in the middle), "corrupt" (right size, other bytes), "short" (wrong size)."""

    def __init__(self, repositories):
        self.repositories = repositories
        self.faults = {}
        self.requests = []
        self.down = set()  # files whose GETs end without an answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_HEAD(self):
                outer.serve(self, body=False)

            def do_GET(self):
                outer.serve(self, body=True)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def serve(self, handler, body):
        path = handler.path.split("?")[0]
        if path.startswith("/api/datasets/"):
            return self.listing(handler, path)
        for repository, files in self.repositories.items():
            head, _, rest = path.partition("/resolve/")
            if head == f"/datasets/{repository}" and rest:
                file = rest.split("/", 1)[1]
                if file in files:
                    return self.send_file(handler, file, files[file], body)
                return self.refuse(handler, "EntryNotFound", 404)
        return self.refuse(handler, "RepoNotFound", 404)

    def refuse(self, handler, code, status):
        handler.send_response(status)
        handler.send_header("X-Error-Code", code)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def listing(self, handler, path):
        repository = "/".join(path.split("/")[3:5])
        if repository not in self.repositories:
            return self.refuse(handler, "RepoNotFound", 404)
        files = self.repositories[repository]
        if "/tree/" in path:
            answer = [{"type": "file", "path": f, "size": len(d), "oid": "0" * 40} for f, d in files.items()]
        else:
            answer = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        data = json.dumps(answer).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def send_file(self, handler, file, data, body):
        wanted = handler.headers.get("Range")
        self.requests.append((handler.command, file, wanted))
        if body and file in self.down:
            handler.close_connection = True
            return
        fault = self.faults[file].pop(0) if body and self.faults.get(file) else None
        etag = hashlib.sha256(data).hexdigest()
        start = int(wanted.split("=")[1].split("-")[0]) if wanted else 0
        sent = data[start:]
        if fault == "corrupt":
            sent = bytes(byte ^ 0x55 for byte in sent)
        if fault == "short":
            sent = sent[: len(sent) // 2]
        handler.send_response(206 if start else 200)
        handler.send_header("ETag", f'"{etag}"')
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.send_header("X-Linked-Size", str(len(data)))
        handler.send_header("Accept-Ranges", "bytes")
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(sent)))
        handler.end_headers()
        if body:
            handler.wfile.write(sent[: len(sent) // 2] if fault == "cut" else sent)
            if fault == "cut":
                handler.close_connection = True
