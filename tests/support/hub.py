"""A hub of models on this machine's loopback, which answers as the Hugging Face hub does: for downloads without a network."""

import hashlib
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


@contextmanager
def served(files: Mapping[str, bytes], broken: Collection[str] = ()) -> Iterator[str]:
    """Serve ``files`` (``owner/model/name``: content); gives the address for ``HF_ENDPOINT``.

    Args:
        broken: those of which the connection breaks in the middle.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            model, _, place = self.path.strip("/").partition("/resolve/")  # OWNER/MODEL/resolve/REVISION/NAME
            name = f"{model}/{place.partition('/')[2]}"
            content = files.get(name)
            self.send_response(404 if content is None else 200)
            if content is None:
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if content and self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if name in broken else content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
