#!/usr/bin/env python3
"""A submission server whose AUTH is GNU SASL's: for mechanisms that are bound to the TLS session, which neither Postfix nor Dovecot 2.3 has.

    gsasl.py PORT CHAIN.pem KEY.pem VERSION USER PASSWORD MECHANISM..

Takes mail from USER only. Prints one line for each session that came in: TLS version, mechanism, binding.
"""
import base64
import ctypes
import ctypes.util
import socketserver
import ssl
import sys

gsasl = ctypes.CDLL("libgsasl.so.18")
libssl = ctypes.CDLL(ctypes.util.find_library("ssl"))
NEEDS_MORE = 1
# gsasl.h
AUTHID, PASSWORD, CB_TLS_UNIQUE, CB_TLS_EXPORTER = 1, 3, 18, 25
context = ctypes.c_void_p()
assert gsasl.gsasl_init(ctypes.byref(context)) == 0
gsasl.gsasl_strerror.restype = ctypes.c_char_p
gsasl.gsasl_property_fast.restype = ctypes.c_char_p


def exporter(tls):
    """RFC 9266; Python's ssl has no function for it, so it is asked of OpenSSL itself."""
    raw = ctypes.c_void_p.from_address(id(tls._sslobj) + 24)
    out = ctypes.create_string_buffer(32)
    label = b"EXPORTER-Channel-Binding"
    done = libssl.SSL_export_keying_material(raw, out, ctypes.c_size_t(32), label, ctypes.c_size_t(len(label)), b"", ctypes.c_size_t(0), 1)
    assert done == 1
    return out.raw


class Session(socketserver.StreamRequestHandler):
    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")
        self.wfile.flush()

    def hear(self):
        return self.rfile.readline().decode("latin-1").rstrip("\r\n")

    def handle(self):
        self.tls = None
        self.user = False
        self.say("220 smart.test ready")
        while True:
            line = self.hear()
            verb = line.split(" ")[0].upper()
            if not line or verb == "QUIT":
                self.say("221 2.0.0 bye")
                return
            if verb == "EHLO":
                last = f"250 AUTH {' '.join(MECHANISMS)}" if self.tls else "250 STARTTLS"
                self.say("250-smart.test\r\n250-ENHANCEDSTATUSCODES\r\n" + last)
            elif verb == "STARTTLS":
                self.say("220 2.0.0 go ahead")
                self.tls = CONTEXT.wrap_socket(self.connection, server_side=True)
                self.rfile, self.wfile = self.tls.makefile("rb"), self.tls.makefile("wb")
            elif verb == "AUTH":
                self.say(self.auth(*line.split(" ")[1:]))
            elif verb == "MAIL" and not self.user:
                self.say("530 5.7.0 who are you?")
            elif verb == "DATA":
                self.say("354 go ahead")
                while self.hear() != ".":
                    pass
                self.say("250 2.0.0 taken")
            else:
                self.say("250 2.0.0 ok")

    def auth(self, mechanism, initial=None):
        session = ctypes.c_void_p()
        if gsasl.gsasl_server_start(context, mechanism.encode(), ctypes.byref(session)) != 0:
            return "504 5.5.4 no such mechanism"

        def put(what, value):
            gsasl.gsasl_property_set(session, what, value)

        put(PASSWORD, PASS.encode())
        if self.tls.version() == "TLSv1.3":
            kind = "tls-exporter"
            put(CB_TLS_EXPORTER, base64.b64encode(exporter(self.tls)))
        else:
            kind = "tls-unique"
            put(CB_TLS_UNIQUE, base64.b64encode(self.tls.get_channel_binding("tls-unique")))
        heard = initial
        if heard is None:
            self.say("334 ")
            heard = self.hear()
        while True:
            out = ctypes.c_void_p()
            status = gsasl.gsasl_step64(session, ctypes.c_char_p(heard.encode()), ctypes.byref(out))
            said = ctypes.string_at(out).decode() if out.value else ""
            if status not in (0, NEEDS_MORE):
                return "535 5.7.8 " + gsasl.gsasl_strerror(status).decode()
            if said:
                self.say("334 " + said)
                heard = self.hear()
            if status == 0:
                name = gsasl.gsasl_property_fast(session, AUTHID)
                self.user = name == USER.encode() and not heard.strip("=") if said else name == USER.encode()
                break
        if not self.user:
            return "535 5.7.8 wrong"
        print(self.tls.version(), mechanism, kind if mechanism.endswith("-PLUS") else "unbound", flush=True)
        return "235 2.7.0 come in"


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


PORT, CHAIN, KEY, VERSION, USER, PASS = sys.argv[1:7]
MECHANISMS = sys.argv[7:]
CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(CHAIN, KEY)
CONTEXT.minimum_version = CONTEXT.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[VERSION]
with Server(("127.0.0.3", int(PORT)), Session) as server:
    server.serve_forever()
