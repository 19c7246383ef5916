"""The weekly link check, against a server of its own."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

SCRIPT = ROOT / "_tools" / "links.py"


class Server(BaseHTTPRequestHandler):
    codes = {"/here": [200], "/guarded": [403], "/gone": [404], "/busy": [503, 200]}
    asked: list[str] = []

    def do_GET(self):
        seen = self.asked.count(self.path)
        self.asked.append(self.path)
        codes = self.codes[self.path]
        self.send_response(codes[min(seen, len(codes) - 1)])
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    Server.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def check(folder, *targets):
    anchors = "".join(f'<a href="{target}">x</a>' for target in targets)
    (folder / "page.html").write_text(f"<p>{anchors}</p>", encoding="utf-8")
    return subprocess.run(
        [sys.executable, SCRIPT, folder], capture_output=True, text=True, timeout=60
    )


def test_living_links_pass_and_are_asked_for_once(tmp_path, server):
    targets = (f"{server}/here", f"{server}/here#part", f"{server}/guarded", "a.html")
    done = check(tmp_path, *targets)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 links, 1 guarded, 0 dead" in done.stdout
    assert f"guarded 403             {server}/guarded  (page.html)" in done.stdout
    assert sorted(Server.asked) == ["/guarded", "/here"]


def test_a_dead_link_fails_and_names_its_page(tmp_path, server):
    done = check(tmp_path, f"{server}/here", f"{server}/gone")
    assert done.returncode == 1
    assert f"dead 404                {server}/gone  (page.html)" in done.stdout


def test_a_server_that_is_busy_once_is_asked_again(tmp_path, server):
    done = check(tmp_path, f"{server}/busy")
    assert done.returncode == 0, done.stdout
    assert Server.asked == ["/busy", "/busy"]


def test_a_folder_without_pages_fails(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "is the book built there?" in done.stderr
