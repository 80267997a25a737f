"""A web server of Python's, by HTTPS, for what is fetched and posted.

web.py ADDRESS PORT CERT KEY DIRECTORY   serves the files of DIRECTORY, or of DIRECTORY/HOST for a host that has its own;
                                         keeps what is posted: DIRECTORY/posted/N, and its header N.txt
"""

import http.server
import itertools
import pathlib
import ssl
import sys

address, port, cert, key, directory = sys.argv[1:]
root = pathlib.Path(directory)
posted = itertools.count(1)


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        own = root / self.headers["Host"].partition(":")[0]
        self.directory = own if own.is_dir() else root
        super().do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        place = root / "posted" / str(next(posted))
        place.parent.mkdir(exist_ok=True)
        place.with_suffix(".txt").write_text(f"{self.requestline}\n{self.headers}")
        place.write_bytes(body)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(cert, key)
server = http.server.ThreadingHTTPServer((address, int(port)), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
